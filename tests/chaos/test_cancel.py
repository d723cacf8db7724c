"""Cancel during a long dump and during a long statement."""

from __future__ import annotations

import time

import pytest

from tests.chaos.console import STAGING, Console, table_lock, wait_for

pytestmark = pytest.mark.chaos


def sessions(console: Console, run_id: int) -> int:
    with console.superuser() as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE %s",
            [f"opsconsole:{run_id}:%"],
        ).fetchone()
    assert row is not None
    return int(row[0])


def test_cancel_during_dump_ends_tool_and_sessions(demo: Console) -> None:
    with demo.target() as other, table_lock(other, "payouts", "ACCESS EXCLUSIVE"):
        run_id = demo.ops("migrate", STAGING)["id"]  # type: ignore[index]
        wait_for(demo.tools, "pg_dump did not start")
        asked = time.monotonic()
        demo.ops("cancel", str(run_id))
        wait_for(lambda: not demo.tools() and not sessions(demo, run_id), "still there", seconds=15)
        assert time.monotonic() - asked < 15
    assert demo.wait_ended(run_id) == "cancelled"
    assert "Nothing was changed" in demo.run_row(run_id)["summary"]
    assert not list((demo.home / "backups").rglob(f"*run{run_id}.*"))


def test_cancel_during_statement_ends_it_and_says_what_is_left(demo: Console) -> None:
    demo.add_migration(
        "slow", 'ALTER TABLE "teams" ADD COLUMN "slow" INTEGER;\nSELECT pg_sleep(300);\n'
    )
    run_id = demo.ops("migrate", STAGING)["id"]  # type: ignore[index]
    wait_for(lambda: "20990101000000_slow (atomic" in demo.log_of(run_id), "not begun")
    time.sleep(0.5)
    demo.ops("cancel", str(run_id))
    wait_for(lambda: not sessions(demo, run_id), "sessions are still there", seconds=15)
    assert demo.wait_ended(run_id) == "cancelled"
    summary = demo.run_row(run_id)["summary"]
    assert "20990101000000_slow was rolled back by PostgreSQL and left nothing" in summary
    assert "20250728104200_index_targets_parent" in summary
    pending = demo.ops("pending", STAGING)
    assert [m["name"] for m in pending] == ["20990101000000_slow"]  # type: ignore[union-attr]
    demo.ops("demo", "mend")
