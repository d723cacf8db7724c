"""A migration that breaks the application: with and without other writers."""

from __future__ import annotations

from typing import Any

import pytest

from opsconsole.targets.content import read_tables
from tests.chaos.console import STAGING, Console, Sampler

pytestmark = pytest.mark.chaos


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
    with demo.traffic():
        run = demo.migrate_to_attention()
        assert [way["action"] for way in run["ways"]] == ["restore", "keep"]
        assert "rows written by others" in run["ways"][0]["leaves"]
        with Sampler(demo.application_dsn()) as sampler:
            back = demo.ops("way-back", str(run["id"]), "--reason", "broken", "--wait")
    assert back["status"] == "succeeded", back["summary"]  # type: ignore[index]
    assert demo.status_of(run["id"]) == "rolled_back"
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
    with demo.traffic():
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


def contents(console: Console) -> dict[str, dict[str, Any]]:
    """Rows and content hash of every table but Prisma's history."""
    with console.target() as target:
        tables = read_tables(target)
    del tables["public._prisma_migrations"]
    return tables


def resolve_and_take_away(console: Console, run: dict[str, Any]) -> None:
    name = console.run_row(run["id"])["result"]["failed_script"]["name"]
    console.ops("resolve", STAGING, name, "--mark", "rolled_back", "--reason", "x", "--wait")
    assert console.status == 0, console.said
    console.ops("demo", "mend")


def test_broken_sql_leaves_every_table_as_before_its_file_and_the_next_migrate_succeeds(
    demo: Console,
) -> None:
    assert demo.ops("migrate", STAGING, "--wait")["status"] == "succeeded"  # type: ignore[index]
    before = contents(demo)
    demo.ops("demo", "break-sql")
    run = demo.ops("migrate", STAGING, "--wait")

    assert run["status"] == "failed", run  # type: ignore[index]
    assert run["replaced"] is None  # type: ignore[index]
    assert contents(demo) == before

    resolve_and_take_away(demo, run)  # type: ignore[arg-type]
    demo.add_migration("note", 'ALTER TABLE "teams" ADD COLUMN "note" TEXT;\n')
    again = demo.ops("migrate", STAGING, "--wait")
    assert again["status"] == "succeeded", again  # type: ignore[index]
    assert [name.partition("_")[2] for name in again["applied"]] == ["note"]  # type: ignore[index]
    demo.ops("demo", "mend")


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
    resolve_and_take_away(demo, run)  # type: ignore[arg-type]
    assert demo.ops("pending", STAGING) == []
