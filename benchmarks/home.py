"""The dashboard over a month of health samples.

Run as `.venv/bin/python -m benchmarks.home [ENVIRONMENTS] [DAYS]`. Every environment has two
checks, each asked once a minute. In one run: the page with an hour of samples and with the whole
month (it must cost the same), and reading one day of samples as rows, as the page once did.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from importlib import import_module

from benchmarks import bench

TIMES = 15
CHECKS = ("http", "sql")
LIMIT_MS = 100
SAMPLES = """
    INSERT INTO opsconsole_healthresult (
        environment_id, target_id, check_name, phase, observed_at, is_healthy, latency_ms,
        summary, answer
    )
    SELECT
        target.environment_id, CASE WHEN name = 'sql' THEN target.id END, name, '',
        now() - minute * interval '1 minute', minute %% 500 > 0, 5 + minute %% 40,
        '200 healthy', '{"status": "healthy"}'
    FROM generate_series(%s, %s) minute, opsconsole_target target, unnest(%s::text[]) name
    ORDER BY minute DESC
"""


def make_environments(count: int) -> None:
    from opsconsole.environments.models import Application, Environment, Target
    from opsconsole.health.models import HealthCheck

    for number in range(count):
        application, _made = Application.objects.get_or_create(
            slug=f"a{number // 3}", defaults={"name": f"Application {number // 3}"}
        )
        environment = Environment.objects.create(
            application=application,
            slug=f"e{number}",
            name=f"E{number}",
            position=number % 3,
            migrations_folder="/nowhere",
        )
        target = Target.objects.create(environment=environment, dsn_reference="env:NOWHERE")
        target.states.create(data={"migrations": [], "refusals": [], "server": {}})
        for name in CHECKS:
            HealthCheck.objects.create(environment=environment, name=name, kind=name, address="-")


def sample(first: int, last: int) -> None:
    """Samples of these minutes ago, and their half hours as an upgrade counts them."""
    from django.db import connection

    upgrade = import_module("opsconsole.migrations.0010_health_rollups")
    with connection.cursor() as cursor:
        cursor.execute(SAMPLES, [first, last, list(CHECKS)])
        cursor.execute("TRUNCATE opsconsole_healthrollup")
        cursor.execute(upgrade.ROLL_UP)
        cursor.execute("VACUUM ANALYZE opsconsole_healthresult, opsconsole_healthrollup")


def milliseconds(work: Callable[[], object]) -> float:
    """The best of some goes."""
    taken = []
    for _time in range(TIMES):
        began = time.perf_counter()
        work()
        taken.append((time.perf_counter() - began) * 1000)
    return min(taken)


def read_day_of_rows() -> None:
    from datetime import timedelta

    from django.utils import timezone

    from opsconsole.health.models import HealthResult

    since = timezone.now() - timedelta(hours=24)
    for _result in HealthResult.objects.filter(observed_at__gt=since, run=None):
        pass


def main(environments: int, days: int) -> None:
    bench.start()
    from django.test import Client

    from opsconsole.health.models import HealthResult

    make_environments(environments)
    client = Client()
    client.force_login(bench.admin())

    def page() -> None:
        answer = client.get("/", headers={"host": "localhost"}, secure=True)
        assert answer.status_code == 200

    sample(0, 59)
    hour = milliseconds(page)
    began = time.perf_counter()
    sample(60, days * 1440 - 1)
    made = time.perf_counter() - began
    month, rows = milliseconds(page), milliseconds(read_day_of_rows)
    print(
        f"{environments} environments, {len(CHECKS)} checks each, "
        f"{HealthResult.objects.count():,} samples (made in {made:.0f} s)"
    )
    print(f"the page over one hour of samples    {hour:8.1f} ms")
    print(f"the page over {days} days of samples     {month:8.1f} ms ({month / hour:.1f} times)")
    print(f"one day of samples, read as rows     {rows:8.1f} ms ({rows / month:.1f} times)")
    assert month < LIMIT_MS, f"the page takes {month:.0f} ms, more than {LIMIT_MS}"


if __name__ == "__main__":
    os.environ.setdefault("PYTEST_XDIST_WORKER", "bench")
    main(*(int(word) for word in sys.argv[1:3] or ("30", "30")))
