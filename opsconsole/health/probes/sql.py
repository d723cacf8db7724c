"""Ask the target itself."""

from __future__ import annotations

import time

import psycopg

from opsconsole.health.probes.kinds import ProbeAnswer, ProbeRequest


def probe_sql(request: ProbeRequest) -> ProbeAnswer:
    """Healthy: the query returns a first row whose first column is not false."""
    began = time.perf_counter()
    try:
        with psycopg.connect(request.conninfo, autocommit=True) as connection:
            connection.execute("SET default_transaction_read_only = on")
            connection.execute(
                "SELECT set_config('statement_timeout', %s, false)",
                [str(int(request.timeout_seconds * 1000))],
            )
            row = connection.execute(request.address.encode()).fetchone()
    except psycopg.Error as error:
        lines = str(error).strip().splitlines()
        return ProbeAnswer(False, _ms(began), (lines[-1] if lines else type(error).__name__)[:500])
    if row is None or row[0] is False:
        return ProbeAnswer(False, _ms(began), f"answered {row[0] if row else 'no row'}")
    return ProbeAnswer(True, _ms(began), f"answered {row[0]}"[:500], {"value": str(row[0])[:200]})


def _ms(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 2)
