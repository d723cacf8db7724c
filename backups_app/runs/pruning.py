"""Delete what no rule keeps, in two phases: mark with a reason, delete when the grace is over."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop, ngettext

from backups_app import copies, events
from backups_app.models import Backup, BackupCopy, BackupPolicy
from backups_app.models.backup import CopyState
from backups_app.parameters import PruneParameters
from backups_app.runs.results import PruneResult
from backups_app.services.policies import decide_for
from opsconsole.environments.models import Target
from opsconsole.events import recording as audit
from opsconsole.exceptions import AdapterError, StepFailed
from opsconsole.runs.documents import Parameters
from opsconsole.runs.models import Run
from opsconsole.runs.patience import patiently
from opsconsole.runs.step import Promise, RunContext, Step
from opsconsole.sentences import Text, say, say_count


class MarkExpired(Step):
    """Mark what the policy no longer keeps, and unmark what it keeps again."""

    name = gettext_noop("mark")

    def promise(self, target: Target, parameters: Parameters) -> Promise:
        days = BackupPolicy.objects.of(target.environment).grace_days
        return Promise(
            _("Mark"),
            ngettext(
                "marks what the policy no longer keeps; in %(n)d day it is deleted, unless held",
                "marks what the policy no longer keeps; in %(n)d days it is deleted, unless held",
                days,
            )
            % {"n": days},
        )

    def run(self, context: RunContext) -> Text:
        policy = BackupPolicy.objects.of(context.environment)
        due_at = timezone.now() + timedelta(days=policy.grace_days)
        marked = 0
        rows = Backup.objects.filter(target=context.target, deleted_at=None)
        for decision in decide_for(context.target, policy):
            if decision.keeps:
                marked_before = rows.filter(pk=decision.id).exclude(expires_at=None)
                if marked_before.exists():
                    patiently(partial(marked_before.update, expires_at=None, expiry_reason=""))
                    context.log(f"backup {decision.id} stays after all: {decision.why}")
                continue
            unmarked = rows.filter(pk=decision.id, expires_at=None)
            if unmarked.exists():
                patiently(partial(unmarked.update, expires_at=due_at, expiry_reason=decision.why))
                marked += 1
                context.log(f"backup {decision.id} goes on {due_at:%d %b %Y}: {decision.why}")
        return say_count(
            "%(marked)s marked, %(count)s day of grace",
            "%(marked)s marked, %(count)s days of grace",
            policy.grace_days,
            marked=marked,
        )


class DeleteExpired(Step[PruneParameters, PruneResult]):
    """Delete the objects of what was marked and whose grace is over, then mark the row deleted."""

    name = gettext_noop("delete")

    def promise(self, target: Target, parameters: PruneParameters) -> Promise:
        return Promise(_("Delete"), _("deletes every copy of what was marked long enough ago"))

    def run(self, context: RunContext[PruneParameters, PruneResult]) -> Text:
        goes = {d.id for d in decide_for(context.target) if not d.keeps}
        due = Backup.objects.filter(pk__in=goes, deleted_at=None, expires_at__lte=timezone.now())
        deleted, problems = 0, []
        for backup in due.order_by("taken_at"):
            context.check()
            try:
                deleted += delete_backup(context, backup)
            except AdapterError as error:
                context.log(f"backup {backup.pk}: {error}", "no")
                problems.append(f"backup {backup.pk}: {error}")
        context.result.deleted = deleted
        if problems:
            raise StepFailed(
                say(
                    "%(left)s could not be deleted, %(deleted)s were: %(problem)s",
                    left=len(problems),
                    deleted=deleted,
                    problem=problems[0],
                )
            )
        return say("%(deleted)s deleted", deleted=deleted)


def delete_backup(context: RunContext, backup: Backup) -> bool:
    """Delete every copy, then mark the row deleted; False when a hold came first.

    No transaction is open while a storage is asked, and what became of each copy is recorded as
    soon as it is known. Raises AdapterError; what is left is tried again by the next pruning.
    """
    for copy in backup.copies.exclude(state=CopyState.DELETED).select_related("storage"):
        if not patiently(partial(_begin_deletion, backup, copy)):
            return False
        try:
            copies.delete_objects(copies.store_of(copy.storage), backup.key)
        except AdapterError as error:
            _record_failure(copy, str(error))
            raise
        patiently(partial(_record_deletion, context, backup, copy))
    if not patiently(lambda: _mark_deleted(context, backup)):
        return False
    context.log(f"backup {backup.pk} is deleted: {backup.expiry_reason}")
    return True


def forget_deletions(run: Run) -> None:
    """After a lost worker: of copies that were being deleted nobody knows whether they are there."""
    BackupCopy.objects.filter(backup__target=run.target_id, state=CopyState.DELETING).update(
        state=CopyState.UNREACHABLE, problem="the run was lost while it was deleted"
    )


def _is_due(backup: Backup) -> bool:
    """Lock the row, so that a hold is either seen here or finds what this transaction writes."""
    locked = Backup.objects.select_for_update(of=("self",)).get(pk=backup.pk)
    return not locked.is_held and locked.expires_at is not None


def _begin_deletion(backup: Backup, copy: BackupCopy) -> bool:
    with transaction.atomic():
        if not _is_due(backup):
            return False
        BackupCopy.objects.filter(pk=copy.pk).update(state=CopyState.DELETING, problem="")
    return True


def _record_failure(copy: BackupCopy, problem: str) -> None:
    """It may be gone or not: the archive is deleted before what lies beside it."""
    row = BackupCopy.objects.filter(pk=copy.pk)
    patiently(lambda: row.update(state=CopyState.UNREACHABLE, problem=problem[:500]))


def _record_deletion(context: RunContext, backup: Backup, copy: BackupCopy) -> None:
    """Once, however often it is done."""
    row = BackupCopy.objects.filter(pk=copy.pk).exclude(state=CopyState.DELETED)
    with transaction.atomic():
        if not row.update(state=CopyState.DELETED):
            return
        audit.record(
            events.COPY_DELETED,
            actor=None,
            run=context.run,
            about=backup,
            reason=backup.expiry_reason,
            data=events.CopyDeleted(key=backup.key, storage=copy.storage.address),
        )


def _mark_deleted(context: RunContext, backup: Backup) -> bool:
    """Once, however often it is done; False when it is not due any more."""
    with transaction.atomic():
        if not _is_due(backup):
            return False
        if not Backup.objects.filter(pk=backup.pk, deleted_at=None).update(deleted_at=Now()):
            return True
        audit.record(
            events.BACKUP_DELETED,
            actor=None,
            run=context.run,
            about=backup,
            reason=backup.expiry_reason,
            data=events.BackupDeleted(key=backup.key, size_bytes=backup.size_bytes),
        )
    return True
