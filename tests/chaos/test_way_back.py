"""A migration that breaks the application: with and without other writers."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.chaos.console import ROOT, Console, Sampler

pytestmark = pytest.mark.chaos
STAGING = "sales-commission/staging"


@contextmanager
def traffic(console: Console) -> Iterator[None]:
    """`ops demo traffic` in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "manage.py"), "ops", "demo", "traffic", STAGING],
        env=console.environment, cwd=ROOT, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)


def is_healthy(console: Console) -> bool:
    return all(row["healthy"] for row in console.ops("health", STAGING))  # type: ignore[union-attr]


def test_quiet_environment_goes_back_by_itself_with_a_short_outage(demo: Console) -> None:
    demo.ops("demo", "break-health")
    with Sampler(demo.application_dsn()) as sampler:
        run = demo.ops("migrate", STAGING, "--wait")

    assert run["status"] == "rolled_back", run["summary"]  # type: ignore[index]
    assert 0 < sampler.total < 1
    assert 0 < run["availability"]["down_ms"] < 1000  # type: ignore[index]
    assert is_healthy(demo)
    with demo.superuser() as connection:
        kept = connection.execute(
            "SELECT datallowconn FROM pg_database WHERE datname = %s",
            [run["replaced"]],  # type: ignore[index]
        ).fetchone()
    assert kept == (False,)


def test_environment_with_writers_asks_and_keeps_every_later_write(demo: Console) -> None:
    demo.ops("demo", "break-health")
    with traffic(demo):
        run = demo.ops("migrate", STAGING, "--wait")
        assert run["status"] == "needs_attention", run["summary"]  # type: ignore[index]
        assert [way["action"] for way in run["ways"]] == ["restore", "keep"]  # type: ignore[index]
        assert "rows written by others" in run["ways"][0]["leaves"]  # type: ignore[index]
        with Sampler(demo.application_dsn()) as sampler:
            back = demo.ops("way-back", str(run["id"]), "--reason", "broken", "--wait")  # type: ignore[index]
    assert back["status"] == "succeeded", back["summary"]  # type: ignore[index]
    assert demo.status_of(run["id"]) == "rolled_back"  # type: ignore[index]
    assert 0 < sampler.total < 1
    assert 0 < back["availability"]["down_ms"] < 1000  # type: ignore[index]
    assert is_healthy(demo)
    replaced = back["replaced"]  # type: ignore[index]
    with demo.superuser() as connection:
        connection.execute(f'ALTER DATABASE "{replaced}" ALLOW_CONNECTIONS true')
    with demo.superuser(replaced) as connection:
        later = connection.execute(
            "SELECT count(*) FROM commissions WHERE deal LIKE 'traffic%'"
        ).fetchone()
    assert later is not None
    assert later[0] > 0


def test_broken_sql_under_traffic_restores_nothing(demo: Console) -> None:
    demo.ops("demo", "break-sql")
    with traffic(demo):
        run = demo.ops("migrate", STAGING, "--wait")
    assert run["status"] == "failed", run  # type: ignore[index]
    assert len(run["applied"]) == 2  # type: ignore[index]
    assert run["replaced"] is None  # type: ignore[index]
    with demo.target() as target:
        left = target.execute(
            "SELECT to_regclass('payout_notes'), (SELECT count(*) FROM information_schema.columns"
            " WHERE table_name = 'payouts' AND column_name = 'approved_by')"
        ).fetchone()
    assert left == (None, 0)


def test_non_atomic_break_lands_exactly_what_the_run_names(demo: Console) -> None:
    demo.ops("demo", "break-sql", "--non-atomic")
    run = demo.ops("migrate", STAGING, "--wait")
    assert run["status"] == "failed", run  # type: ignore[index]
    landed = demo.run_row(run["id"])["result"]["landed"]  # type: ignore[index]
    assert [item["line"] for item in landed] == [2, 3, 4, 5]
    with demo.target() as target:
        left = target.execute(
            "SELECT to_regclass('payout_notes')::text, (SELECT count(*) FROM"
            " information_schema.columns WHERE table_name = 'payouts'"
            " AND column_name = 'approved_by')"
        ).fetchone()
    assert left == ("payout_notes", 1)
    name = demo.run_row(run["id"])["result"]["failed_script"]["name"]  # type: ignore[index]
    demo.ops("resolve", STAGING, name, "--mark", "rolled_back", "--reason", "x", "--wait")
    assert demo.status == 0
    demo.ops("demo", "mend")
    demo.ops("pending", STAGING)
    assert demo.status == 0
