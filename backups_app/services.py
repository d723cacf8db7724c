"""Verbs of restorable copies: take, prove, restore, drop what was replaced."""

from __future__ import annotations

from django.db import transaction
from django.db.models.functions import Now
from django.utils.translation import gettext as _

from backups_app.models import Backup, ReplacedDatabase
from opsconsole.choices import BackupReason, ProofLevel, RunKind, RunStatus
from opsconsole.exceptions import Refused
from opsconsole.models import Environment, Run, User
from opsconsole.permissions import authorize
from opsconsole.services import audit, runs


def request_backup(
    *, actor: User, environment: Environment, idempotency_key: str, reason: str = ""
) -> Run:
    """Queue a backup that is taken and proven. Raises Refused."""
    return runs.request_run(
        actor=actor,
        kind=RunKind.BACKUP,
        environment=environment,
        reason=reason,
        idempotency_key=idempotency_key,
        parameters={"reason": BackupReason.MANUAL},
    )


def request_verify(*, actor: User, backup: Backup, idempotency_key: str) -> Run:
    """Queue another proof of a backup: restored into a scratch database and compared."""
    return runs.request_run(
        actor=actor,
        kind=RunKind.VERIFY,
        environment=backup.environment,
        idempotency_key=idempotency_key,
        parameters={"backup": backup.pk},
    )


def request_restore(
    *,
    actor: User,
    backup: Backup,
    environment: Environment,
    idempotency_key: str,
    typed_name: str = "",
    reason: str = "",
    way_back_of: Run | None = None,
) -> Run:
    """Queue a restore that swaps the backup in and keeps what it replaces.

    Raises Refused (422) when the environment's name was not typed, (409) for a backup that was
    never proven, and (403) when data of a protected environment would go elsewhere without
    an admin.
    """
    authorize(actor, "restore.start", environment)
    if backup.deleted_at or backup.proof < ProofLevel.RESTORED:
        raise Refused(_("This backup was never proven: prove it first."))
    if backup.environment.application_id != environment.application_id:
        raise Refused(_("This backup belongs to another application."))
    if backup.environment_id != environment.pk and backup.environment.is_protected:
        authorize(actor, "restore.cross", environment)
    if (environment.is_protected or way_back_of is None) and typed_name.strip() != environment.slug:
        raise Refused(
            _("Type the environment's name, %(name)s, to confirm.") % {"name": environment.slug},
            status=422,
        )
    return runs.request_run(
        actor=actor,
        kind=RunKind.RESTORE,
        environment=environment,
        reason=reason,
        idempotency_key=idempotency_key,
        parameters={"backup": backup.pk},
        way_back_of=way_back_of,
    )


def choose_way_back(*, actor: User, run: Run, reason: str, idempotency_key: str,
                    typed_name: str = "") -> Run:  # fmt: skip
    """Take the restore that a run needing attention offers; returns the restore run."""
    authorize(actor, "run.decide", run.environment)
    way = next((w for w in run.result.get("ways", []) if w["action"] == "restore"), None)
    before = Run.objects.filter(idempotency_key=idempotency_key, requested_by=actor).first()
    if before:
        return before
    if run.status != RunStatus.NEEDS_ATTENTION or way is None:
        raise Refused(_("%(run)s offers no way back now.") % {"run": run})
    return request_restore(
        actor=actor,
        backup=Backup.objects.get(pk=way["backup"]),
        environment=run.environment,
        idempotency_key=idempotency_key,
        typed_name=typed_name,
        reason=reason,
        way_back_of=run,
    )


def request_drop(*, actor: User, replaced: ReplacedDatabase) -> None:
    """Queue the drop of a replaced database. Raises Refused when it is live or already gone."""
    environment = replaced.target.environment
    authorize(actor, "replaced.drop", environment)
    with transaction.atomic():
        changed = (
            ReplacedDatabase.objects.filter(pk=replaced.pk, dropped_at=None)
            .exclude(swapped_at=None)
            .update(dropped_at=Now(), dropped_by=actor)
        )
        if not changed:
            raise Refused(_("It is already dropped, or was never replaced."))
        audit.record("replaced.dropped", actor=actor, environment=environment, about=replaced,
                     details={"size_bytes": replaced.size_bytes})  # fmt: skip
        transaction.on_commit(lambda: runs.send_short("backups_app.drop_replaced", replaced.pk))
