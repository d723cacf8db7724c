"""Ask the target itself."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from contextlib import closing
from typing import Any

import psycopg

from opsconsole.exceptions import AdapterError
from opsconsole.formats import one_line
from opsconsole.health.probes.kinds import SUMMARY_CHARACTERS, ProbeAnswer, ProbeRequest
from opsconsole.outgoing import Deadline
from opsconsole.targets.server import IDENTITY, cut_off_after, reason_of, refuse_own

# The server ends the statement itself and says so, unless it is stuck.
CUT_AFTER_SECONDS = 0.5
MOST_CHARACTERS = 200


def probe_sql(request: ProbeRequest) -> ProbeAnswer:
    """Healthy: the query returns a first row whose first column is not false.

    It is one statement in a transaction that reads only, which it cannot turn into another. Of
    its rows the first is read. Connecting takes whole seconds, at least two; all that comes
    after it takes no longer than the request's timeout, whatever the server does.
    """
    began = time.perf_counter()
    try:
        row = _first_row(request)
    except psycopg.Error as error:
        return _bad(began, reason_of(error))
    # A value that the server can write and Python cannot read: too deep, too long.
    except (AdapterError, ValueError, RecursionError) as error:
        return _bad(began, str(error))
    if not row or row[0] is False:
        return _bad(began, f"answered {row[0] if row else 'no row'}")
    value = one_line(str(row[0]), MOST_CHARACTERS)
    return ProbeAnswer(True, _ms(began), f"answered {value}", {"value": value})


def _bad(began: float, summary: str) -> ProbeAnswer:
    return ProbeAnswer(False, _ms(began), one_line(summary, SUMMARY_CHARACTERS))


def _first_row(request: ProbeRequest) -> tuple[Any, ...] | None:
    """Raises psycopg.Error, AdapterError for the console's own database."""
    deadline = Deadline(request.timeout_seconds)
    whole = max(2, math.ceil(request.timeout_seconds))
    with closing(psycopg.connect(request.conninfo, connect_timeout=whole)) as connection:
        connection.read_only = True
        with cut_off_after(deadline.left() + CUT_AFTER_SECONDS, connection):
            # After the first query of a transaction nothing makes it one that writes.
            limit = f"{max(1, int(deadline.left() * 1000))}"
            identity = connection.execute(
                f"SELECT {IDENTITY}, set_config('statement_timeout', %s, true)", [limit]
            ).fetchone()
            assert identity is not None
            refuse_own((identity[0], identity[1]), request.own_database)
            with closing(_rows(connection, request.address)) as rows:
                return next(rows, None)


def _rows(connection: psycopg.Connection, query: str) -> Generator[tuple[Any, ...], None, None]:
    """The extended protocol, which streaming uses, takes one statement; the first row comes alone."""
    yield from connection.cursor().stream(query.encode())


def _ms(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 2)
