"""Delete what no rule keeps, in two phases: mark with a reason, delete when the grace is over."""

from __future__ import annotations

from datetime import timedelta

from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone

from backups_app import copies
from backups_app.models import Backup, BackupCopy, BackupPolicy
from backups_app.models.backup import CopyState
from backups_app.services.policies import decide_for
from opsconsole.exceptions import AdapterError, StepFailed
from opsconsole.runner.step import RunContext, Step
from opsconsole.services import audit


class MarkExpired(Step):
    """Mark what the policy no longer keeps, and unmark what it keeps again."""

    name = "mark"

    def run(self, context: RunContext) -> str:
        policy = BackupPolicy.objects.of(context.environment)
        due_at = timezone.now() + timedelta(days=policy.grace_days)
        marked = 0
        rows = Backup.objects.filter(environment=context.environment, deleted_at=None)
        for decision in decide_for(context.environment, policy):
            if decision.keeps:
                if (
                    rows.filter(pk=decision.id)
                    .exclude(expires_at=None)
                    .update(expires_at=None, expiry_reason="")
                ):
                    context.log(f"backup {decision.id} stays after all: {decision.why}")
                continue
            changed = rows.filter(pk=decision.id, expires_at=None).update(
                expires_at=due_at, expiry_reason=decision.why
            )
            if changed:
                marked += 1
                context.log(f"backup {decision.id} goes on {due_at:%d %b %Y}: {decision.why}")
        return f"{marked} marked, {policy.grace_days} days of grace"


class DeleteExpired(Step):
    """Delete the objects of what was marked and whose grace is over, then mark the row deleted."""

    name = "delete"

    def run(self, context: RunContext) -> str:
        goes = {d.id for d in decide_for(context.environment) if not d.keeps}
        due = Backup.objects.filter(pk__in=goes, deleted_at=None, expires_at__lte=timezone.now())
        deleted, problems = 0, []
        for backup in due.order_by("taken_at"):
            context.check()
            try:
                deleted += delete_backup(context, backup)
            except AdapterError as error:
                context.log(f"backup {backup.pk}: {error}", "no")
                problems.append(f"backup {backup.pk}: {error}")
        context.run.result["deleted"] = deleted
        if problems:
            raise StepFailed(f"{len(problems)} could not be deleted, {deleted} were: {problems[0]}")
        return f"{deleted} deleted"


def delete_backup(context: RunContext, backup: Backup) -> bool:
    """Delete every copy, then mark the row deleted; False when a hold came first.

    The row is locked meanwhile, so that a hold is either seen here or refused there. Raises
    AdapterError; what is left is tried again by the next pruning.
    """
    with transaction.atomic():
        locked = Backup.objects.select_for_update(of=("self",)).get(pk=backup.pk)
        if locked.is_held or locked.expires_at is None:
            return False
        _delete_copies(locked)
        Backup.objects.filter(pk=backup.pk).update(deleted_at=Now())
        audit.record(
            "backup.deleted", actor=None, run=context.run, about=backup,
            reason=backup.expiry_reason,
            details={"key": backup.key, "size_bytes": backup.size_bytes},
        )  # fmt: skip
    context.log(f"backup {backup.pk} is deleted: {backup.expiry_reason}")
    return True


def _delete_copies(backup: Backup) -> None:
    for copy in backup.copies.exclude(state=CopyState.DELETED).select_related("storage"):
        copies.delete_objects(copies.store_of(copy.storage), backup.key)
        BackupCopy.objects.filter(pk=copy.pk).update(state=CopyState.DELETED)
