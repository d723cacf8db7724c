"""What a policy marks and deletes, what a hold keeps, and what a preview says."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.db import connection, transaction
from django.utils import timezone

from backups_app import services
from backups_app.models import Backup, BackupPolicy, Storage
from backups_app.models.backup import CopyState
from backups_app.services import policies
from opsconsole.events.models import AuditEvent
from opsconsole.exceptions import Kind, Refused
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.models import Run
from tests.backups_app.conftest import execute, lose

pytestmark = pytest.mark.usefixtures("transactional_db")


def prune(environment, actor=None) -> Run:
    return execute(
        policies.request_prune(
            actor=actor, target=environment.targets.get(), idempotency_key=uuid.uuid4().hex
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
    assert not policies.prune_is_due(environment.targets.get())


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
        actor=operator,
        backup=old_backups[3],
        reason="audit",
        until=timezone.now() + timedelta(days=1),
    )
    assert policies.decide_for(environment.targets.get())[-1].why == "on hold"
    Backup.objects.update(held_until=timezone.now())
    assert not policies.decide_for(environment.targets.get())[-1].keeps


@pytest.mark.parametrize(
    ("reason", "until", "said"),
    [("", None, "Enter a reason"), ("x", datetime(2020, 1, 1, tzinfo=UTC), "already be over")],
)
def test_hold_without_a_reason_or_in_the_past_is_refused(backup, operator, reason, until, said):
    with pytest.raises(Refused, match=said) as refusal:
        services.hold_backup(actor=operator, backup=backup, reason=reason, until=until)
    assert refusal.value.kind is Kind.INVALID


def test_changed_policy_takes_marks_back(old_backups, set_policy, environment):
    set_policy(keep_days=25)
    prune(environment)
    set_policy(keep_days=50)
    assert policies.prune_is_due(environment.targets.get())
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


@pytest.fixture
def due(old_backups, set_policy, bucket) -> Backup:
    """A backup whose grace is over, with a copy in the backups folder and one in a bucket."""
    due = old_backups[3]
    due.copies.create(storage=bucket.storage)
    set_policy(keep_days=35, grace_days=0)
    return due


def states(backup: Backup) -> list[str]:
    return list(backup.copies.order_by("pk").values_list("state", flat=True))


def test_copy_that_is_gone_stays_recorded_as_gone_when_the_next_one_fails(due, bucket, environment):
    bucket.script = lambda *_: 403
    run = prune(environment)
    assert run.status == RunStatus.FAILED
    due.refresh_from_db()
    assert (due.deleted_at, states(due)) == (None, [CopyState.DELETED, CopyState.UNREACHABLE])
    assert "cannot delete" in due.copies.get(storage=bucket.storage).problem
    gone = AuditEvent.objects.filter(action="backup.copy_deleted")
    assert [event.details["storage"] for event in gone] == [Storage.objects.builtin().address]


def test_row_is_not_locked_while_a_storage_is_asked(due, bucket, environment):
    locked = []

    def lock(_method, _key):
        with transaction.atomic():
            locked.append(Backup.objects.select_for_update(nowait=True).get(pk=due.pk))
        connection.close()

    bucket.script = lock
    assert prune(environment).status == RunStatus.SUCCEEDED
    assert locked


def test_hold_while_the_first_copy_is_deleted_keeps_the_others(due, bucket, environment, operator):
    builtin = Storage.objects.builtin()
    due.copies.filter(storage=builtin).delete()
    due.copies.create(storage=builtin)
    held = []

    def hold_once(_method, _key):
        if not held:
            held.append(services.hold_backup(actor=operator, backup=due, reason="x", until=None))
            connection.close()

    bucket.script = hold_once
    prune(environment)
    due.refresh_from_db()
    assert (due.deleted_at, due.is_held) == (None, True)
    assert states(due) == [CopyState.DELETED, CopyState.STORED]


def test_hold_while_the_last_copy_is_deleted_is_refused(due, bucket, environment, operator):
    refusals = []

    def hold(_method, _key):
        with pytest.raises(Refused) as refusal:
            services.hold_backup(actor=operator, backup=due, reason="x", until=None)
        refusals.append(str(refusal.value))
        connection.close()

    bucket.script = hold
    assert prune(environment).status == RunStatus.SUCCEEDED
    assert set(refusals) == {"This backup is being deleted."}
    due.refresh_from_db()
    assert due.deleted_at is not None


def test_copy_whose_deletion_was_cut_off_is_tried_again(due, environment):
    run = policies.request_prune(
        actor=None, target=environment.targets.get(), idempotency_key=uuid.uuid4().hex
    )
    due.copies.update(state=CopyState.DELETING)
    lose(run)
    assert states(due) == [CopyState.UNREACHABLE, CopyState.UNREACHABLE]
    prune(environment)
    due.refresh_from_db()
    assert due.deleted_at is not None
    assert states(due) == [CopyState.DELETED, CopyState.DELETED]


def test_environment_without_a_policy_deletes_nothing(old_backups, environment, settings):
    assert not policies.prune_is_due(environment.targets.get())
    settings.DATABASE_BACKUP_RETENTION_DAYS = 25
    assert policies.prune_is_due(environment.targets.get())


def test_preview_changes_nothing_and_names_what_would_go(old_backups, environment):
    policy = BackupPolicy.objects.of(environment)
    policy.keep_days = 25
    preview = policies.preview_policy(policy, policy.environment.targets.get())
    assert [b.pk for b, _why in preview.going] == [old_backups[3].pk, old_backups[2].pk]
    assert (preview.kept, len(preview.months)) == (3, 12)
    assert not Backup.objects.exclude(expires_at=None).exists()
    assert not BackupPolicy.objects.exists()
