"""Where backups go, how they are encrypted, proven, kept and deleted, with real archives."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from django.utils import timezone

from backups_app import alarms, services
from backups_app.encryption import new_identity, public_key
from backups_app.models import Backup, BackupPolicy, ReplacedDatabase, ScheduledOccurrence, Storage
from backups_app.services import policies, storages
from opsconsole.choices import BackupReason, ProofLevel, RunKind, RunStatus
from opsconsole.exceptions import Refused
from opsconsole.models import AuditEvent, Run
from opsconsole.services import secrets
from opsconsole.targets.content import read_tables
from tests.backups_app.conftest import execute, restore
from tests.conftest import log_of
from tests.s3 import scripted_s3

pytestmark = pytest.mark.usefixtures("transactional_db")


@pytest.fixture
def bucket(admin):
    """A scripted S3 server and its saved storage."""
    with scripted_s3() as s3:
        s3.storage = storages.save_storage(
            actor=admin, storage=Storage(name="Bucket", url=s3.url, access_key="key"), before={},
            secret="s3-secret-marker",
        )  # fmt: skip
        yield s3


@pytest.fixture
def second_folder(admin, tmp_path):
    return storages.save_storage(
        actor=admin, storage=Storage(name="Second", url=f"file://{tmp_path}/second"), before={}
    )


# -- storages


def test_storage_secret_is_sealed_and_absent_from_the_audit_trail(bucket):
    assert "s3-secret-marker" not in bucket.storage.secret_encrypted
    assert secrets.unseal(bucket.storage.secret_encrypted) == "s3-secret-marker"
    event = AuditEvent.objects.get(action="storage.added")
    assert "s3-secret-marker" not in str(event.details)
    assert event.details["secret_changed"] is True


def test_storage_test_writes_reads_back_and_deletes(bucket):
    assert storages.test_storage(bucket.storage) == ""
    assert [method for method, _key in bucket.requests] == ["PUT", "GET", "POST"]
    assert bucket.objects == {}


def test_storage_test_says_what_the_server_answered(bucket):
    bucket.code[403] = "InvalidAccessKeyId"
    bucket.script = lambda *_: 403
    assert "403 Forbidden (InvalidAccessKeyId" in storages.test_storage(bucket.storage)
    bucket.storage.refresh_from_db()
    assert "InvalidAccessKeyId" in bucket.storage.test_error


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
        ("Backups folder", "stored"), ("Bucket", "stored"), ("Second", "stored"),
    ] or [(c.storage.name, c.state) for c in copies] == [
        ("Backups folder", "stored"), ("Second", "stored"), ("Bucket", "stored"),
    ]  # fmt: skip
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
    assert alarms.alarms_of([environment])[environment.pk] == [
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
        public_key(settings.BACKUP_IDENTITIES[0]), public_key(team),
    )  # fmt: skip
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


# -- proving


def prove(backup: Backup, actor, level: ProofLevel) -> Run:
    return execute(
        services.request_verify(
            actor=actor, backup=backup, idempotency_key=uuid.uuid4().hex, level=level
        )
    )


@pytest.mark.parametrize("level", [ProofLevel.CHECKSUM, ProofLevel.DECODED, ProofLevel.RESTORED])
@pytest.mark.parametrize("form", ["custom", "directory"])
def test_each_proof_level_holds_and_never_lowers_the_proof(
    run_backup, set_policy, operator, level, form
):
    set_policy(format=form, jobs=2)
    backup = Backup.objects.get(run=run_backup())
    run = prove(backup, operator, level)
    assert run.status == RunStatus.SUCCEEDED, run.summary
    backup.refresh_from_db()
    assert backup.proof == ProofLevel.CONTENT


@pytest.mark.parametrize("level", [level for level in ProofLevel if level >= 0])
def test_each_proof_level_finds_a_flipped_bit(backup, operator, settings, level, environment):
    path = Path(settings.BACKUPS_FOLDER) / backup.key
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))
    run = prove(backup, operator, level)
    assert run.status == RunStatus.FAILED
    assert "its checksum is not the recorded one" in run.summary
    backup.refresh_from_db()
    assert (backup.proof, backup.copies.get().state) == (ProofLevel.NONE, "corrupt")
    with pytest.raises(Refused, match="never proven"):
        restore(operator, backup, environment)
    assert "did not hold when it was proven" in alarms.alarms_of([environment])[environment.pk][0]


def test_assertion_that_is_not_true_is_named(run_backup, set_policy):
    set_policy(assertions="SELECT count(*) = 200 FROM users\nSELECT count(*) > 5000 FROM targets")
    run = run_backup()
    assert run.status == RunStatus.FAILED
    assert "'SELECT count(*) > 5000 FROM targets' returned False" in run.summary
    assert "assertion holds: SELECT count(*) = 200 FROM users" in log_of(run)
    assert Backup.objects.get(run=run).proof == ProofLevel.NONE


def test_assertion_cannot_write_and_a_broken_one_is_named(run_backup, set_policy):
    set_policy(assertions="DELETE FROM targets RETURNING true")
    assert "cannot execute DELETE in a read-only transaction" in run_backup().summary
    set_policy(assertions="SELECT nonsense")
    assert "42703" in run_backup().summary


# -- holds and pruning


@pytest.fixture
def old_backups(backup):
    """The real backup, newest of five: 10, 20, 30 and 40 days older ones with files of their own."""

    def older(days: int) -> Backup:
        path = Path(Storage.objects.builtin().address.removeprefix("file://"))
        key = f"{backup.environment.path}/older-{days}.dump.zst"
        for suffix in ("", ".json"):
            (path / (key + suffix)).write_bytes((path / (backup.key + suffix)).read_bytes())
        made = Backup.objects.get(pk=backup.pk)
        made.pk, made.key, made.taken_at = None, key, backup.taken_at - timedelta(days=days)
        made.save()
        made.copies.create(storage=Storage.objects.builtin())
        return made

    return [older(days) for days in (10, 20, 30, 40)]


def prune(environment, actor=None) -> Run:
    return execute(
        policies.request_prune(
            actor=actor, environment=environment, idempotency_key=uuid.uuid4().hex
        )
    )


def files() -> set[str]:
    root = Path(Storage.objects.builtin().address.removeprefix("file://"))
    return {path.name for path in root.rglob("older-*.zst")}


def test_pruning_marks_with_a_reason_and_deletes_only_after_the_grace(
    old_backups, set_policy, environment
):
    set_policy(keep_days=25, grace_days=7)
    assert prune(environment).status == RunStatus.SUCCEEDED
    marked = Backup.objects.exclude(expires_at=None).order_by("taken_at")
    assert [b.pk for b in marked] == [old_backups[3].pk, old_backups[2].pk]
    assert marked[0].expiry_reason.startswith("40.0 days older than the newest proven backup")
    assert len(files()) == 4

    Backup.objects.exclude(expires_at=None).update(expires_at=timezone.now())
    run = prune(environment)
    assert run.summary.startswith("2 backups deleted") or run.result["deleted"] == 2
    assert files() == {"older-10.dump.zst", "older-20.dump.zst"}
    gone = Backup.objects.exclude(deleted_at=None)
    assert {b.pk for b in gone} == {old_backups[2].pk, old_backups[3].pk}
    assert AuditEvent.objects.filter(action="backup.deleted").count() == 2
    assert not policies.prune_is_due(environment)


def test_hold_takes_a_marked_backup_back(old_backups, set_policy, environment, operator):
    set_policy(keep_days=25)
    prune(environment)
    services.hold_backup(actor=operator, backup=old_backups[3], reason="audit", until=None)
    Backup.objects.exclude(expires_at=None).update(expires_at=timezone.now())
    prune(environment)
    old_backups[3].refresh_from_db()
    assert (old_backups[3].expires_at, old_backups[3].deleted_at) == (None, None)
    services.release_backup(actor=operator, backup=old_backups[3])
    with pytest.raises(Refused, match="not on hold"):
        services.release_backup(actor=operator, backup=old_backups[3])
    prune(environment)
    old_backups[3].refresh_from_db()
    assert old_backups[3].expires_at is not None


def test_hold_that_ends_lets_the_policy_decide_again(
    old_backups, set_policy, environment, operator
):
    set_policy(keep_days=25)
    services.hold_backup(
        actor=operator, backup=old_backups[3], reason="audit",
        until=timezone.now() + timedelta(days=1),
    )  # fmt: skip
    assert policies.decide_for(environment)[-1].why == "on hold"
    Backup.objects.update(held_until=timezone.now())
    assert not policies.decide_for(environment)[-1].keeps


@pytest.mark.parametrize(
    ("reason", "until", "said"),
    [("", None, "Say why"), ("x", datetime(2020, 1, 1, tzinfo=UTC), "already be over")],
)
def test_hold_without_a_reason_or_in_the_past_is_refused(backup, operator, reason, until, said):
    with pytest.raises(Refused, match=said) as refusal:
        services.hold_backup(actor=operator, backup=backup, reason=reason, until=until)
    assert refusal.value.status == 422


def test_changed_policy_takes_marks_back(old_backups, set_policy, environment):
    set_policy(keep_days=25)
    prune(environment)
    set_policy(keep_days=50)
    assert policies.prune_is_due(environment)
    prune(environment)
    assert not Backup.objects.exclude(expires_at=None).exists()


def test_object_that_cannot_be_deleted_keeps_its_row_and_is_tried_again(
    old_backups, set_policy, environment, bucket
):
    old_backups[3].copies.create(storage=bucket.storage)
    set_policy(keep_days=35, grace_days=0)
    bucket.script = lambda *_: 403
    assert prune(environment).status == RunStatus.FAILED
    old_backups[3].refresh_from_db()
    assert old_backups[3].deleted_at is None
    bucket.script = lambda *_: None
    assert prune(environment).status == RunStatus.SUCCEEDED
    old_backups[3].refresh_from_db()
    assert old_backups[3].deleted_at is not None


def test_environment_without_a_policy_deletes_nothing(old_backups, environment, settings):
    assert not policies.prune_is_due(environment)
    settings.DATABASE_BACKUP_RETENTION_DAYS = 25
    assert policies.prune_is_due(environment)


def test_preview_changes_nothing_and_names_what_would_go(old_backups, environment):
    policy = BackupPolicy.objects.of(environment)
    policy.keep_days = 25
    preview = policies.preview_policy(policy)
    assert [b.pk for b, _why in preview.going] == [old_backups[3].pk, old_backups[2].pk]
    assert (preview.kept, len(preview.months)) == (3, 12)
    assert not Backup.objects.exclude(expires_at=None).exists()
    assert not BackupPolicy.objects.exists()


# -- schedules


def due(environment, now: datetime) -> list[str]:
    return [run.kind for run in policies.keep_schedules(environment, now)]


def test_schedule_makes_one_run_per_moment(environment, set_policy, backup):
    set_policy(backup_cron="0 3 * * *", verify_cron="0 4 * * *", time_zone="Europe/Warsaw")
    tomorrow = timezone.now() + timedelta(days=1)
    three = tomorrow.replace(hour=1, minute=0, second=0) + timedelta(hours=1)
    BackupPolicy.objects.update(changed_at=three - timedelta(hours=6))

    assert due(environment, three) == ["backup"]
    assert due(environment, three) == []
    assert due(environment, three + timedelta(hours=1)) == ["verify"]
    run = Run.objects.filter(kind=RunKind.BACKUP).latest("id")
    assert (run.requested_by, run.parameters["reason"]) == (None, BackupReason.SCHEDULED)
    assert execute(run).status == RunStatus.SUCCEEDED
    assert Run.objects.get(kind=RunKind.VERIFY).asked_by == "the schedule"


def test_schedule_missed_while_the_console_was_away_is_made_up_for_once(environment, set_policy):
    set_policy(backup_cron="0 * * * *")
    now = timezone.now().replace(minute=30) + timedelta(days=3)
    assert due(environment, now) == ["backup"]
    assert ScheduledOccurrence.objects.count() == 1


def test_schedule_does_not_run_for_the_time_before_it_was_set(environment, set_policy):
    set_policy(backup_cron="* * * * *")
    assert due(environment, timezone.now() - timedelta(minutes=2)) == []


def test_refused_schedule_is_kept_as_missed_and_alarms(environment, set_policy):
    set_policy(verify_cron="* * * * *", alarm_hours=None)
    assert due(environment, timezone.now() + timedelta(minutes=2)) == []
    assert ScheduledOccurrence.objects.get().refusal == "There is no backup to prove."
    (alarm,) = alarms.alarms_of([environment])[environment.pk]
    assert "was missed: There is no backup to prove." in alarm


# -- alarms


def test_alarm_when_the_newest_proven_backup_is_too_old(backup, environment, set_policy):
    set_policy(alarm_hours=24)
    assert alarms.alarms_of([environment])[environment.pk] == []
    Backup.objects.update(taken_at=timezone.now() - timedelta(hours=30))
    assert alarms.alarms_of([environment])[environment.pk] == [
        "The newest proven backup is 30 h old; the policy allows 24 h."
    ]
    Backup.objects.update(proof=ProofLevel.CHECKSUM)
    assert "No backup is proven" in alarms.alarms_of([environment])[environment.pk][0]


def test_alarm_when_a_size_departs_from_the_recent_median(old_backups, backup, environment):
    assert alarms.alarms_of([environment])[environment.pk] == []
    Backup.objects.filter(pk=backup.pk).update(size_bytes=backup.size_bytes // 3)
    assert "the last ones had about" in alarms.alarms_of([environment])[environment.pk][0]


def test_alarms_take_as_many_queries_for_three_environments_as_for_one(
    make_environment, django_assert_num_queries
):
    one = [make_environment("staging")]
    three = [*one, make_environment("a", position=2), make_environment("b", position=3)]
    for group in (one, three):
        with django_assert_num_queries(4):
            alarms.alarms_of(group)


# -- restores to other places, and back


def test_restore_into_a_new_database_leaves_the_live_one_alone(
    backup, environment, operator, target
):
    target.execute("DELETE FROM targets")
    name = f"{target.info.dbname}_copy"
    run = restore(operator, backup, environment, new_database=name, typed_name="")
    assert run.status == RunStatus.SUCCEEDED, run.summary
    assert run.summary.endswith("The live database was not touched.")
    with psycopg.connect(environment.dsn, dbname=name) as connection:
        tables = read_tables(connection)
    assert tables == backup.manifest["content"]["tables"]
    assert target.execute("SELECT count(*) FROM targets").fetchone() == (0,)
    again = restore(operator, backup, environment, new_database=name, typed_name="")
    assert f"there already is a database {name}" in again.summary


@pytest.mark.parametrize("name", ["postgres", "template1", "x" * 64, "a\0b"])
def test_restore_refuses_a_name_that_cannot_be(backup, environment, operator, name):
    with pytest.raises(Refused) as refusal:
        restore(operator, backup, environment, new_database=name)
    assert refusal.value.status == 422


def undo(replaced: ReplacedDatabase, actor, typed_name: str = "staging") -> Run:
    return execute(
        services.request_undo(
            actor=actor, replaced=replaced, idempotency_key=uuid.uuid4().hex,
            typed_name=typed_name,
        )
    )  # fmt: skip


def test_undo_brings_the_other_state_back_hash_equal_and_can_be_undone(
    backup, environment, operator, target
):
    target.execute("UPDATE targets SET amount = -1; INSERT INTO users (name) VALUES ('later')")
    before = read_tables(target)
    target.close()
    first = ReplacedDatabase.objects.get(run=restore(operator, backup, environment))

    run = undo(first, operator)

    assert run.status == RunStatus.SUCCEEDED, run.summary
    with psycopg.connect(environment.dsn) as connection:
        assert read_tables(connection) == before
    first.refresh_from_db()
    assert first.undone_at is not None
    second = ReplacedDatabase.objects.kept().get()
    assert second.undoes == first
    assert undo(second, operator).status == RunStatus.SUCCEEDED
    with psycopg.connect(environment.dsn) as connection:
        assert read_tables(connection) == backup.manifest["content"]["tables"]


def test_undo_is_open_from_the_moment_the_names_are_exchanged(
    backup, environment, operator, monkeypatch
):
    from opsconsole.runner.recorder import Recorder
    from tests.conftest import superuser

    replaced = ReplacedDatabase.objects.get(run=restore(operator, backup, environment))
    seen: list[bool] = []
    original = Recorder.log

    def log(self, line: str, tone: str = "") -> None:
        if line == "swap: renamed":
            with superuser() as connection:
                row = connection.execute(
                    "SELECT datallowconn FROM pg_database WHERE datname = %s", [replaced.live_name]
                ).fetchone()
            seen.append(row[0])
        original(self, line, tone)

    monkeypatch.setattr(Recorder, "log", log)
    assert undo(replaced, operator).status == RunStatus.SUCCEEDED
    assert seen == [True]


def test_undo_is_refused_when_it_is_not_kept_or_not_confirmed(backup, environment, operator, admin):
    replaced = ReplacedDatabase.objects.get(run=restore(operator, backup, environment))
    with pytest.raises(Refused, match="Type the environment's name"):
        undo(replaced, operator, "production")
    services.request_drop(actor=admin, replaced=replaced)
    replaced.refresh_from_db()
    with pytest.raises(Refused, match="no longer kept"):
        undo(replaced, operator)


def test_undo_of_a_database_that_was_dropped_by_hand_changes_nothing(backup, environment, operator):
    replaced = ReplacedDatabase.objects.get(run=restore(operator, backup, environment))
    from tests.conftest import superuser

    with superuser() as connection:
        connection.execute(f'DROP DATABASE "{replaced.replaced_name}"')
    run = undo(replaced, operator)
    assert (run.status, "is no longer on the server" in run.summary) == (RunStatus.FAILED, True)
    psycopg.connect(environment.dsn).close()
