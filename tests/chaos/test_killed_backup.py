"""kill -9 of the worker while a backup is taken or proven, and while a restore is built."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.chaos.console import PATIENCE_SECONDS, STAGING, Console, table_lock, wait_for
from tests.s3 import ScriptedS3, scripted_s3

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
            "restore",
            str(taken["backup"]),
            "--to",
            STAGING,
            "--confirm",
            "staging",  # type: ignore[index]
        )
        busy.reaches(run_id, "restore")
        busy.kill_worker_of(run_id)
    assert busy.wait_ended(run_id) == "failed"
    assert "was not replaced" in busy.run_row(run_id)["summary"]
    assert scratch(busy) == []
    busy.worker_is_back()


USE_BUCKET = """
from backups_app.models import BackupPolicy, Storage
from opsconsole.environments.models import Environment
from opsconsole.environments.secrets import seal
bucket = Storage.objects.create(
    name="Bucket", url={url!r}, access_key="key", secret_encrypted=seal("secret"))
policy = BackupPolicy.objects.of(Environment.objects.get(slug="staging"))
policy.storage = bucket if {is_first} else Storage.objects.builtin()
policy.save()
policy.copies.set([] if {is_first} else [bucket])
"""
FORGET_BUCKET = """
from backups_app.models import Backup, BackupCopy, BackupPolicy, Storage
BackupPolicy.objects.all().delete()
gone = Backup.objects.filter(copies__storage__name="Bucket")
BackupCopy.objects.filter(backup__in=list(gone)).delete()
Storage.objects.filter(name="Bucket").delete()
"""


@pytest.fixture
def bucket(busy: Console) -> Iterator[ScriptedS3]:
    """A bucket that takes an archive only when `may_finish` is set."""
    with scripted_s3() as s3:
        s3.may_finish = threading.Event()

        def wait_with_archives(method: str, key: str) -> None:
            if method == "PUT" and key.endswith(".zst"):
                s3.may_finish.wait(PATIENCE_SECONDS)

        s3.script = wait_with_archives
        yield s3
        busy.django(FORGET_BUCKET)


def kill_while_an_archive_is_sent(console: Console, s3: ScriptedS3) -> int:
    run_id = console.started("backup", STAGING)

    def is_sent() -> bool:
        return any(method == "PUT" and key.endswith(".zst") for method, key in s3.requests)

    wait_for(is_sent, "nothing was sent to the bucket")
    console.worker().kill()
    # It arrives all the same: the bucket had it whole before the sender died.
    s3.may_finish.set()
    console.loses(run_id)
    return run_id


def test_worker_killed_while_it_sends_to_a_bucket_leaves_no_object(
    busy: Console, bucket: ScriptedS3
) -> None:
    busy.django(USE_BUCKET.format(url=bucket.url, is_first=True))
    run_id = kill_while_an_archive_is_sent(busy, bucket)
    assert busy.wait_ended(run_id) == "failed"
    assert bucket.objects == {}
    busy.worker_is_back()
    assert busy.ops("backup", STAGING, "--wait")["status"] == "succeeded"  # type: ignore[index]
    assert len(bucket.objects) == 3


def test_worker_killed_while_it_copies_to_a_bucket_leaves_a_failed_copy_and_no_object(
    busy: Console, bucket: ScriptedS3
) -> None:
    busy.django(USE_BUCKET.format(url=bucket.url, is_first=False))
    run_id = kill_while_an_archive_is_sent(busy, bucket)
    assert busy.wait_ended(run_id) == "succeeded"
    assert bucket.objects == {}
    with busy.database() as own:
        states = own.execute(
            "SELECT c.state, c.problem FROM backups_app_backupcopy c JOIN backups_app_backup b"
            " ON b.id = c.backup_id WHERE b.run_id = %s ORDER BY c.id",
            [run_id],
        ).fetchall()
    assert states == [
        ("stored", ""),
        ("failed", "the run was lost while it was copied"),
    ]
    busy.worker_is_back()
