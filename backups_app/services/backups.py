"""Take and prove backups, and keep one whatever the policy says."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext as _

from backups_app import events
from backups_app.choices import BackupReason, ProofLevel
from backups_app.models import Backup
from backups_app.models.backup import CopyState
from backups_app.parameters import BackupParameters, ProveParameters
from backups_app.stores.local import LocalStore
from opsconsole.access.models import User
from opsconsole.access.permissions import authorize
from opsconsole.environments.models import Target
from opsconsole.events import recording as audit
from opsconsole.events.reasons import require_reason
from opsconsole.exceptions import Kind, Refused
from opsconsole.runs import services as runs
from opsconsole.runs.models import Run


def request_backup(
    *,
    actor: User | None,
    target: Target,
    idempotency_key: str,
    reason: str = "",
    why: BackupReason = BackupReason.MANUAL,
) -> Run:
    """Queue a backup that is taken, proven and copied. Raises Refused."""
    return runs.request_run(
        actor=actor,
        target=target,
        reason=reason,
        idempotency_key=idempotency_key,
        parameters=BackupParameters(reason=why),
    )


def request_verify(
    *,
    actor: User | None,
    backup: Backup,
    idempotency_key: str,
    level: ProofLevel = ProofLevel.CONTENT,
) -> Run:
    """Queue another proof of a backup, up to `level`. Raises Refused for a deleted one."""
    if backup.deleted_at:
        raise Refused(_("This backup is deleted."))
    return runs.request_run(
        actor=actor,
        target=backup.target,
        idempotency_key=idempotency_key,
        parameters=ProveParameters(backup=backup.pk, level=level),
    )


def hold_backup(*, actor: User, backup: Backup, reason: str, until: datetime | None) -> None:
    """Keep a backup whatever the policy says, until a moment or (None) until it is released.

    Takes back a deletion that is still in its grace. Raises Refused (invalid) without a reason or
    with a moment that has passed, (conflict) for a backup of which no copy is left or every one is
    being deleted.
    """
    authorize(actor, "backup.hold", backup.environment)
    require_reason(reason)
    if until is not None and until <= timezone.now():
        raise Refused(_("The hold would already be over."), kind=Kind.INVALID, field="until")
    with transaction.atomic():
        # Locked first, and the copies read after that: pruning takes the same lock for each copy.
        row = Backup.objects.select_for_update(of=("self",)).get(pk=backup.pk)
        if row.deleted_at:
            raise Refused(_("This backup is deleted."))
        if not row.copies.exclude(state__in=CopyState.going()).exists():
            raise Refused(_("This backup is being deleted."))
        Backup.objects.filter(pk=backup.pk).update(
            held_at=Now(),
            held_by=actor,
            held_until=until,
            hold_reason=reason,
            expires_at=None,
            expiry_reason="",
        )
        audit.record(
            events.BACKUP_HELD,
            actor=actor,
            environment=backup.environment,
            about=backup,
            reason=reason,
            data=events.BackupHeld(until=until.isoformat() if until else "released"),
        )


def open_for_download(*, actor: User, backup: Backup) -> Path:
    """The archive's file, for those with the right; audited.

    The web process holds no storage's secret: a backup that lies in buckets only is refused,
    with where it lies. Raises Refused.
    """
    authorize(actor, "backup.download", backup.environment)
    stored = backup.copies.filter(state__in=CopyState.readable()).select_related("storage")
    folders = [copy for copy in stored if copy.storage.address.startswith("file://")]
    for copy in folders:
        path = LocalStore(copy.storage.address.removeprefix("file://")).path(backup.key)
        if path.is_file():
            with transaction.atomic():
                audit.record(
                    events.BACKUP_DOWNLOADED,
                    actor=actor,
                    about=backup,
                    environment=backup.environment,
                    data=events.BackupFile(key=backup.key),
                )
            return path
    where = ", ".join(f"{copy.storage.address} {backup.key}" for copy in stored)
    raise Refused(
        _("No copy lies in a folder of this machine. Fetch it from its storage: %(where)s")
        % {"where": where or _("no copy is left")}
    )


def release_backup(*, actor: User, backup: Backup) -> None:
    """End a hold; the policy decides again. Raises Refused when there is none."""
    authorize(actor, "backup.hold", backup.environment)
    with transaction.atomic():
        changed = (
            Backup.objects.filter(pk=backup.pk)
            .exclude(held_at=None)
            .update(held_at=None, held_by=None, held_until=None, hold_reason="")
        )
        if not changed:
            raise Refused(_("This backup is not on hold."))
        audit.record(
            events.BACKUP_RELEASED, actor=actor, environment=backup.environment, about=backup
        )
