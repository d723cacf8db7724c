"""kill -9 of the worker while a backup is taken or proven, and while a restore is built."""

from __future__ import annotations

import pytest

from tests.chaos.console import STAGING, Console, table_lock, wait_for

pytestmark = pytest.mark.chaos


def scratch(console: Console) -> list[str]:
    with console.superuser() as connection:
        rows = connection.execute(
            "SELECT datname FROM pg_database"
            " WHERE datname ~ '^sales_commission_staging__(proof|new)'"
        )
        return [row[0] for row in rows]


def archives(console: Console, run_id: int) -> list[str]:
    return [path.name for path in (console.home / "backups").rglob(f"*-run{run_id}.*")]


def test_killed_worker_during_a_dump_leaves_no_archive(busy: Console) -> None:
    with busy.target() as other, table_lock(other, "payouts", "ACCESS EXCLUSIVE"):
        run_id = busy.started("backup", STAGING)
        wait_for(busy.tools, "pg_dump did not start")
        busy.kill_worker_of(run_id)
    assert busy.wait_ended(run_id) == "failed"
    assert "No backup was taken" in busy.run_row(run_id)["summary"]
    assert (archives(busy, run_id), scratch(busy)) == ([], [])
    busy.worker_is_back()
    assert busy.ops("backup", STAGING, "--wait")["status"] == "succeeded"  # type: ignore[index]


def test_killed_worker_during_a_proof_lists_the_backup_as_not_proven(busy: Console) -> None:
    with busy.superuser() as cluster, table_lock(cluster, "pg_database", "SHARE"):
        run_id = busy.started("backup", STAGING)
        wait_for(lambda: "to prove it" in busy.log_of(run_id), "no proof began")
        busy.kill_worker_of(run_id)
    assert busy.wait_ended(run_id) == "failed"
    assert "stays listed as checksum only" in busy.run_row(run_id)["summary"]
    assert len(archives(busy, run_id)) == 3
    assert scratch(busy) == []
    busy.worker_is_back()


def test_killed_worker_while_a_restore_is_built_replaces_nothing(busy: Console) -> None:
    taken = busy.ops("backup", STAGING, "--wait")
    with busy.superuser() as cluster, table_lock(cluster, "pg_database", "SHARE"):
        run_id = busy.started(
            "restore", str(taken["backup"]), "--to", STAGING, "--confirm", "staging"  # type: ignore[index]
        )  # fmt: skip
        busy.reaches(run_id, "restore")
        busy.kill_worker_of(run_id)
    assert busy.wait_ended(run_id) == "failed"
    assert "was not replaced" in busy.run_row(run_id)["summary"]
    assert scratch(busy) == []
    busy.worker_is_back()
