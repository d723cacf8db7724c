"""The pages of a console that has run for years, beside those of an empty one.

Run as `.venv/bin/python -m benchmarks.scale [RUNS] [SAMPLES] [LINES]`, by default a million runs
(and as many audit events), 800,000 health samples and a run of ten million log lines. The rows are
made by SQL, as the console writes them. Prints for each address the queries, and the median and the
95th percentile of the server's time for 20 requests, empty and full.
"""

from __future__ import annotations

import os
import sys
import time
from statistics import median, quantiles
from typing import Any

from benchmarks import bench, home

TIMES = 20
# As a browser on the same machine asks, over HTTPS.
SERVED: dict[str, Any] = {"headers": {"host": "localhost"}, "secure": True}
ENVIRONMENTS = 6
CHUNK = 1000
# A query that takes longer is printed.
SLOW_MS = 50
RUNS = """
    INSERT INTO opsconsole_run (
        operation, kind, changes_target, excludes, status, environment_id, target_id,
        requested_by_id, reason, parameters, parameters_version, result, idempotency_key,
        worker_name, log_seq, created_at, started_at, finished_at, summary
    )
    SELECT
        CASE WHEN n %% 20 = 0 THEN 'migrate' ELSE 'backup' END,
        CASE WHEN n %% 20 = 0 THEN 'migrate' ELSE 'backup' END,
        n %% 20 = 0, '', CASE WHEN n %% 50 = 0 THEN 'failed' ELSE 'succeeded' END,
        target.environment_id, target.id, %(user)s, 'quarter end ' || n, '{}', 0,
        '{}', gen_random_uuid()::text, 'runs@host', 0,
        now() - n * interval '1 minute', now() - n * interval '1 minute',
        now() - n * interval '1 minute' + interval '4 seconds', 'Backup, 1 MB, content equal.'
    FROM generate_series(%(runs)s, 1, -1) n
    JOIN (SELECT *, row_number() OVER (ORDER BY id) AS place FROM opsconsole_target) target
        ON target.place = n %% %(places)s + 1
"""
EVENTS = """
    INSERT INTO opsconsole_auditevent (
        occurred_at, action, outcome, actor_id, actor_label, actor_kind, user_agent, request_id,
        environment_id, run_id, object_type, object_id, object_label, reason, details, sentence,
        app_version
    )
    SELECT
        now() - n * interval '1 minute',
        CASE WHEN n %% 2 = 0 THEN 'run.requested' ELSE 'run.ended' END, 'ok', %(user)s,
        CASE WHEN n %% 3 = 0 THEN 'admin' ELSE 'operator' END, 'user', '', '',
        run.environment_id, run.id, 'Run', run.id, 'Run ' || run.id, run.reason, '{}',
        'operator requested run ' || run.id || ' (back up).', '1'
    FROM generate_series(%(runs)s, 1, -1) n
    JOIN opsconsole_run run ON run.id = %(last)s - n + 1
"""
LINES = """
    INSERT INTO opsconsole_logchunk (run_id, first_seq, last_seq, lines)
    SELECT %(run)s, first, first + %(chunk)s - 1, (
        SELECT jsonb_agg(jsonb_build_array(1790000000 + n * 0.001, '', 'NOTICE: row ' || n || ' is done'))
        FROM generate_series(first, first + %(chunk)s - 1) n
    )
    FROM generate_series(1, %(lines)s, %(chunk)s) first
"""


def fill(runs: int, samples: int, lines: int, user: int) -> int:
    """Make the rows; returns the number of the run with the long log."""
    from django.db import connection

    with connection.cursor() as cursor:
        about = {"user": user, "runs": runs, "places": ENVIRONMENTS}
        began = time.monotonic()
        cursor.execute(RUNS, about)
        cursor.execute("SELECT max(id) FROM opsconsole_run")
        run = int(cursor.fetchone()[0])
        cursor.execute(EVENTS, about | {"last": run})
        print(f"{runs:,} runs and events made in {time.monotonic() - began:.0f} s", flush=True)
        began = time.monotonic()
        cursor.execute(LINES, {"run": run, "chunk": CHUNK, "lines": lines})
        cursor.execute("UPDATE opsconsole_run SET log_seq = %s WHERE id = %s", [lines, run])
        print(f"{lines:,} lines made in {time.monotonic() - began:.0f} s", flush=True)
        home.sample(1, samples // (ENVIRONMENTS * len(home.CHECKS)))
        cursor.execute("VACUUM ANALYZE")
    return run


def addresses(run: int, runs: int, lines: int) -> dict[str, str]:
    deep, middle = runs // 30, lines // 2
    return {
        "home": "/",
        "environment": "/applications/a0/e0",
        "runs": "/runs",
        "runs, deep": f"/runs?before={deep}",
        "runs, failed migrations": "/runs?status=failed&kind=migrate",
        "runs, none such": "/runs?status=cancelled",
        "runs, no such kind": "/runs?kind=import",
        "runs of one environment": "/runs?environment=1",
        "audit": "/audit",
        "audit, deep": f"/audit?before={deep}",
        "audit, who and what": "/audit?who=admin&what=ended",
        "audit, words": "/audit?what=requested+run",
        "audit, nobody": "/audit?who=nobody",
        "audit, nothing": "/audit?what=nothing+such",
        "audit of a run": f"/audit?what=run+{deep}",
        "audit, a reason": f"/audit?what=quarter+end+{deep}",
        "audit, a month": "/audit?since=2026-01-01&until=2026-01-31",
        "find a run": f"/find?q=run+{deep}",
        "find words": "/find?q=quarter",
        "a run": f"/runs/{deep}",
        "run of many lines": f"/runs/{run}",
        "its log, middle": f"/runs/{run}/log?after={middle}",
        "its log, end": f"/runs/{run}/log?after={lines - 1000}",
        "backups": "/backups",
        "settings": "/settings",
    }


def measure(client: Any, address: str) -> tuple[int, float, float]:
    """Queries, median and 95th percentile in milliseconds."""
    from django.db import connection

    asked: list[tuple[float, str]] = []

    def count(execute: Any, sql: str, *rest: Any) -> Any:
        began = time.perf_counter()
        found = execute(sql, *rest)
        asked.append(((time.perf_counter() - began) * 1000, sql))
        return found

    client.get(address, **SERVED)
    with connection.execute_wrapper(count):
        answer = client.get(address, **SERVED)
        assert answer.status_code in {200, 302}, (address, answer.status_code)
    slowest, sql = max(asked)
    if slowest > SLOW_MS:
        print(f"{address}: {slowest:.0f} ms for {sql}")
    taken = []
    for _time in range(TIMES):
        began = time.perf_counter()
        client.get(address, **SERVED)
        taken.append((time.perf_counter() - began) * 1000)
    return len(asked), median(taken), quantiles(taken, n=20)[-1]


def main(runs: int, samples: int, lines: int) -> None:
    bench.start()
    from django.test import Client

    from opsconsole.runs.models import Run

    admin = bench.admin()
    home.make_environments(ENVIRONMENTS)
    client = Client()
    client.force_login(admin)
    fill(2, 12, CHUNK, admin.pk)
    first = Run.objects.latest("pk").pk
    empty = {
        name: measure(client, address) for name, address in addresses(first, 60, CHUNK).items()
    }
    run = fill(runs, samples, lines, admin.pk)
    print(f"{'':26} {'empty':>25} {'full':>25}")
    for name, address in addresses(run, runs, lines).items():
        queries, usual, worst = measure(client, address)
        before = empty[name]
        print(
            f"{name:26} {before[0]:3} queries {before[1]:5.0f} {before[2]:5.0f} ms"
            f" {queries:3} queries {usual:5.0f} {worst:5.0f} ms",
            flush=True,
        )


if __name__ == "__main__":
    os.environ.setdefault("PYTEST_XDIST_WORKER", "bench")
    given = [int(word) for word in sys.argv[1:]]
    main(*(given + [1_000_000, 800_000, 10_000_000][len(given) :]))
