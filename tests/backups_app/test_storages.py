"""Storages: where backups go, their copies, and how they are encrypted."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import psycopg
import pytest
from celery import current_app

from backups_app import alarms, services
from backups_app.archives.encryption import new_identity, public_key
from backups_app.choices import ProofLevel
from backups_app.models import Backup, Storage
from backups_app.services import storages
from opsconsole.events.models import AuditEvent
from opsconsole.exceptions import Refused
from opsconsole.runs.choices import RunStatus
from opsconsole.work import services as work
from opsconsole.work.models import WorkItem
from tests import worker
from tests.backups_app.conftest import execute, restore
from tests.conftest import log_of
from tests.worker import do_work

pytestmark = pytest.mark.usefixtures("transactional_db")


@pytest.fixture
def second_folder(admin, tmp_path):
    return storages.save_storage(
        actor=admin,
        storage=Storage(name="Second", url=f"file://{tmp_path}/second", is_shared=True),
        before={},
    )


def test_storage_secret_is_sealed_and_absent_from_the_audit_trail(bucket):
    assert "s3-secret-marker" not in bucket.storage.secret_encrypted
    assert worker.unseal(bucket.storage.secret_encrypted) == "s3-secret-marker"
    event = AuditEvent.objects.get(action="storage.added")
    assert "s3-secret-marker" not in str(event.details)
    assert event.details["secret_changed"] is True


def test_storage_test_writes_reads_back_and_deletes(bucket):
    assert worker.try_storage(bucket.storage, "a-test") == ""
    assert [method for method, _key in bucket.requests] == ["PUT", "GET", "POST"]
    assert bucket.objects == {}


def test_storage_test_leaves_no_object_that_it_may_not_read(bucket):
    bucket.script = lambda method, _key: 403 if method == "GET" else None
    assert "403 Forbidden" in worker.try_storage(bucket.storage, "a-test")
    assert bucket.objects == {}


def test_storage_test_that_was_cut_short_leaves_no_object_when_it_is_done_again(bucket):
    test = WorkItem.objects.get()
    bucket.objects[f"console/{test.arguments['object']}"] = b"of a worker that was killed"
    do_work(test.pk)
    assert bucket.objects == {}


def test_storage_test_asked_for_before_an_upgrade_is_done(bucket):
    test = WorkItem.objects.get()
    WorkItem.objects.update(arguments={"storage": bucket.storage.pk})
    do_work(test.pk)
    bucket.storage.refresh_from_db()
    assert (bucket.storage.tested_at is not None, bucket.storage.test_error) == (True, "")


def test_storage_test_says_what_the_server_answered(bucket):
    bucket.code[403] = "InvalidAccessKeyId"
    bucket.script = lambda *_: 403
    do_work(WorkItem.objects.get().pk)
    bucket.storage.refresh_from_db()
    assert "403 Forbidden (InvalidAccessKeyId" in bucket.storage.test_error


def test_storage_that_a_policy_uses_is_not_retired(bucket, admin, set_policy):
    set_policy(storage=bucket.storage)
    with pytest.raises(Refused, match="The policy of Shop staging uses it"):
        storages.retire_storage(actor=admin, storage=bucket.storage)
    with pytest.raises(Refused, match="cannot be retired"):
        storages.retire_storage(actor=admin, storage=Storage.objects.builtin())


# -- taking and copying


def test_backup_goes_to_a_bucket_and_is_restored_from_there(
    bucket, run_backup, set_policy, environment, operator, target
):
    set_policy(storage=bucket.storage)
    run = run_backup()
    assert run.status == RunStatus.SUCCEEDED, run.summary
    backup = Backup.objects.get(run=run)
    assert sorted(bucket.objects) == [
        f"console/{backup.key}",
        f"console/{backup.key}.globals.sql",
        f"console/{backup.key}.json",
    ]
    target.execute("DELETE FROM targets")
    target.close()
    assert restore(operator, backup, environment).status == RunStatus.SUCCEEDED
    with psycopg.connect(environment.dsn) as connection:
        assert connection.execute("SELECT count(*) FROM targets").fetchone() == (1000,)


def test_proven_backup_is_copied_and_each_copy_checked(
    second_folder, bucket, run_backup, set_policy
):
    set_policy(copies=(second_folder, bucket.storage))
    run = run_backup()
    assert run.status == RunStatus.SUCCEEDED, run.summary
    copies = Backup.objects.get(run=run).copies.order_by("id")
    assert [(c.storage.name, c.state) for c in copies] == [
        ("Backups folder", "stored"),
        ("Bucket", "stored"),
        ("Second", "stored"),
    ] or [(c.storage.name, c.state) for c in copies] == [
        ("Backups folder", "stored"),
        ("Second", "stored"),
        ("Bucket", "stored"),
    ]
    assert all(c.checked_at for c in copies[1:])


def test_copy_that_fails_is_named_and_the_backup_stays_proven(
    bucket, run_backup, set_policy, environment
):
    set_policy(copies=(bucket.storage,))
    bucket.script = lambda method, _key: 403 if method == "PUT" else None
    run = run_backup()
    assert run.status == RunStatus.FAILED
    assert "not copied everywhere: Bucket: cannot write" in run.summary
    backup = Backup.objects.get(run=run)
    assert backup.proof == ProofLevel.CONTENT
    assert [c.state for c in backup.copies.all()] == ["stored", "failed"]
    assert bucket.objects == {}
    assert alarms.alarms_of([environment.targets.get()])[environment.targets.get().pk] == [
        f"The copy of backup {backup.pk} in Bucket is not copied."
    ]


def test_storage_that_fails_leaves_no_backup_and_no_object(bucket, run_backup, set_policy):
    set_policy(storage=bucket.storage)
    bucket.script = lambda method, key: 403 if method == "PUT" and key.endswith(".json") else None
    run = run_backup()
    assert run.status == RunStatus.FAILED
    assert "the storage answered 403 Forbidden" in run.summary
    assert not Backup.objects.exists()
    assert (bucket.objects, bucket.uploads) == ({}, {})


def test_restore_reads_another_copy_when_one_is_corrupt(
    second_folder, run_backup, set_policy, environment, operator
):
    set_policy(copies=(second_folder,))
    backup = Backup.objects.get(run=run_backup())
    first = backup.copies.get(storage__url="")
    path = Path(first.storage.address.removeprefix("file://")) / backup.key
    path.write_bytes(b"junk")
    run = restore(operator, backup, environment)
    assert run.status == RunStatus.SUCCEEDED, run.summary
    assert "the copy in Backups folder is not whole" in log_of(run)
    first.refresh_from_db()
    assert first.state == "corrupt"


def test_changing_the_policy_strands_no_backup(
    bucket, second_folder, run_backup, set_policy, operator
):
    set_policy(storage=bucket.storage)
    backup = Backup.objects.get(run=run_backup())
    set_policy(storage=second_folder)
    run = execute(services.request_verify(actor=operator, backup=backup, idempotency_key="k" * 32))
    assert run.status == RunStatus.SUCCEEDED, run.summary


def test_encrypted_backup_opens_with_the_team_s_key_alone(run_backup, set_policy, settings):
    team = new_identity()
    set_policy(recipients=f"{public_key(team)} # the team")
    run = run_backup()
    assert run.status == RunStatus.SUCCEEDED, run.summary
    backup = Backup.objects.get(run=run)
    assert backup.key.endswith(".dump.zst.age")
    assert backup.form.recipients == (
        public_key(settings.BACKUP_IDENTITIES[0]),
        public_key(team),
    )
    settings.BACKUP_IDENTITIES = [team]
    assert backup.proof == ProofLevel.CONTENT
    folder = Path(settings.BACKUPS_FOLDER) / backup.key
    assert folder.read_bytes().startswith(b"age-encryption.org/v1")
    assert (folder.parent / f"{folder.name}.globals.sql.age").exists()


def test_encryption_without_a_console_key_is_refused_before_anything_is_written(
    run_backup, set_policy, settings
):
    set_policy(recipients=public_key(new_identity()))
    settings.BACKUP_IDENTITIES = []
    run = run_backup()
    assert run.status == RunStatus.FAILED
    assert "set OPSCONSOLE_BACKUP_IDENTITIES" in run.summary


def test_storage_test_asked_for_while_the_broker_is_away_is_done_when_it_is_back(
    bucket, admin, monkeypatch
):
    do_work(WorkItem.objects.get().pk)
    del bucket.requests[:]
    with monkeypatch.context() as patch:
        patch.setattr(current_app, "send_task", Mock(side_effect=ConnectionError))
        storages.request_test(actor=admin, storage=bucket.storage)
    bucket.storage.refresh_from_db()
    assert (bucket.storage.tested_at, bucket.requests) == (None, [])

    (item_id,) = work.sweep()
    do_work(item_id)
    do_work(item_id)

    bucket.storage.refresh_from_db()
    assert (bucket.storage.tested_at is None, bucket.storage.test_error) == (False, "")
    assert [method for method, _key in bucket.requests] == ["PUT", "GET", "POST"]
