"""Restore a backup, take a way back, undo a restore, drop what was replaced."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext as _

from backups_app import events
from backups_app.choices import ProofLevel
from backups_app.gates import BackupProven, SourceConsents
from backups_app.models import Backup, ReplacedDatabase, RestoreCheck
from backups_app.parameters import RestoreAsParameters, RestoreParameters, UndoParameters
from backups_app.services import consent
from opsconsole.access.models import User
from opsconsole.access.permissions import authorize
from opsconsole.environments.models import Environment, Target
from opsconsole.environments.services import require_typed_name
from opsconsole.events import recording as audit
from opsconsole.exceptions import Kind, Refused
from opsconsole.health.step import failing
from opsconsole.runs import services as runs
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.gates import Gate
from opsconsole.runs.models import Run
from opsconsole.runs.registry import parameters_of
from opsconsole.targets.server import NAME_BYTES
from opsconsole.work import services as work
from opsconsole.work.registry import work_key
from opsconsole.work.sending import send_short, task_key

RESERVED = {"postgres", "template0", "template1"}
HEALTH_SPAN = timedelta(minutes=10)
DROP = work_key("backups_app.drop_replaced")
CHECK_RESTORE = task_key("backups_app.check_restore")


def request_restore(
    *,
    actor: User,
    backup: Backup,
    target: Target,
    idempotency_key: str,
    typed_name: str = "",
    reason: str = "",
    new_database: str = "",
    consents_unmasked: bool = False,
    trusts_source: bool = False,
    backs_up_first: bool = False,
    consents: Sequence[str] = (),
    way_back_of: Run | None = None,
) -> Run:
    """Queue a restore that swaps the backup in and keeps what it replaces.

    With `new_database` nothing is replaced: the backup goes into a database of that name on the
    environment's server. With `backs_up_first` the live database is backed up, and that backup
    proven, before anything is replaced. `consents` name what belongs to the live database and may
    stay behind; the exchange is refused for anything else that would. Raises Refused (invalid)
    when the environment's name was not typed or the new name is none, (conflict) for a backup that
    was never proven, and (forbidden) when data would go to another environment unmasked and the
    actor may not take it out of its own; where that is protected, (forbidden) also without an admin
    of the other one, and (invalid) without the consent. An imported backup runs code from
    elsewhere with the rights of the environment's role: (invalid) unless the actor `trusts_source`.
    """
    authorize(actor, "restore.start", target.environment)
    if backup.environment.application_id != target.environment.application_id:
        raise Refused(_("This backup belongs to another application."))
    consent.require_restore(actor, backup, target.environment)
    if backup.environment_id != target.environment.pk and backup.environment.is_protected:
        _require_masking_or_consent(actor, backup, target.environment, consents_unmasked)
    if backup.is_imported and not trusts_source:
        raise Refused(
            _(
                "This archive was made elsewhere, and restoring it runs the code in it with the "
                "rights of the role of %(where)s: say that you trust where it comes from."
            )
            % {"where": target.environment},
            kind=Kind.INVALID,
            field="trusts_source",
        )
    if new_database:
        _require_database_name(new_database)
    elif target.environment.is_protected or way_back_of is None:
        require_typed_name(target.environment, typed_name)
    return runs.request_run(
        actor=actor,
        target=target,
        reason=reason,
        idempotency_key=idempotency_key,
        parameters=RestoreAsParameters(backup=backup.pk, database=new_database)
        if new_database
        else RestoreParameters(
            backup=backup.pk, backs_up_first=backs_up_first, consents=tuple(consents)
        ),
        way_back_of=way_back_of,
    )


def _require_masking_or_consent(
    actor: User, backup: Backup, where: Environment, consents: bool
) -> None:
    if consent.masks(backup.environment):
        return
    authorize(actor, "restore.cross", where)
    if not consents:
        raise Refused(
            _(
                "%(source)s is protected and its policy has no masking script: an admin has to "
                "consent that its data goes to %(where)s as it is."
            )
            % {"source": backup.environment, "where": where},
            kind=Kind.INVALID,
            field="consents_unmasked",
        )


def restore_gates(pk: int, environment: Environment, requester: User | None) -> list[Gate]:
    """What has to hold before that backup is restored to the environment."""
    backup = Backup.objects.select_related("environment__application").filter(pk=pk).first()
    if backup is None:
        return [BackupProven(is_deleted=True, is_proven=False, link="")]
    return [
        BackupProven(
            backup.deleted_at is not None,
            backup.proof >= ProofLevel.RESTORED,
            backup.get_absolute_url(),
        ),
        SourceConsents(
            str(backup.environment), consent.allows_restore(requester, backup, environment)
        ),
    ]


def destinations(
    *, actor: User, backup: Backup, among: Iterable[Target]
) -> tuple[list[Target], str]:
    """Where the actor may restore a backup to, and why not everywhere, or ""."""
    offered, why = [], ""
    crosses_unmasked = backup.environment.is_protected and not consent.masks(backup.environment)
    for target in among:
        environment = target.environment
        try:
            authorize(actor, "restore.start", environment)
            if crosses_unmasked and environment.pk != backup.environment_id:
                authorize(actor, "restore.cross", environment)
        except Refused:
            continue
        try:
            consent.require_restore(actor, backup, environment)
        except Refused as refusal:
            why = str(refusal)
        else:
            offered.append(target)
    return offered, why


def known_to_stay_behind(targets: Iterable[Target], backup: Backup | None = None) -> list[str]:
    """What the last exchange in these targets, or the last look before one, found would stay behind."""
    runs = Run.objects.filter(target__in=targets, result__has_key="left_behind")
    checks = RestoreCheck.objects.filter(target__in=targets, backup=backup, is_done=True)
    found: set[str] = set()
    for run in runs.order_by("target", "-pk").distinct("target"):
        found.update(run.result["left_behind"])
    for check in checks.order_by("target", "-pk").distinct("target"):
        found.update(check.data.get("left_behind", []))
    return sorted(found)


def _require_database_name(name: str) -> None:
    if len(name.encode()) > NAME_BYTES or "\0" in name or name in RESERVED:
        raise Refused(
            _("Give the new database a name of at most %(bytes)s bytes, and not %(reserved)s.")
            % {"bytes": NAME_BYTES, "reserved": ", ".join(sorted(RESERVED))},
            kind=Kind.INVALID,
            field="new_database",
        )


def request_check(*, actor: User, backup: Backup, target: Target) -> RestoreCheck:
    """Have a worker look at what a restore would meet.

    Raises Refused (unavailable) without a broker.
    """
    authorize(actor, "restore.start", target.environment)
    with transaction.atomic():
        check = RestoreCheck.objects.create(backup=backup, target=target)
        audit.record(
            events.RESTORE_CHECKED, actor=actor, environment=target.environment, about=backup
        )
    if not send_short(CHECK_RESTORE, check.pk):
        raise Refused(
            _("No worker can be asked now: the broker does not answer."), kind=Kind.UNAVAILABLE
        )
    return check


@dataclass(frozen=True)
class HealthAround:
    """What fails, one line each, "" for nothing: in the live database, as last asked since the
    exchange, and in the one that was put aside, as last asked before it."""

    live: str
    put_aside: str


def health_around(replaced: ReplacedDatabase) -> HealthAround:
    """By the newest answers within ten minutes: older ones say nothing of either."""
    assert replaced.swapped_at is not None
    answers = replaced.target.environment.health_results.order_by("check_name", "-observed_at")
    newest = answers.distinct("check_name")
    swapped, recently = replaced.swapped_at, timezone.now() - HEALTH_SPAN
    return HealthAround(
        failing(list(newest.filter(observed_at__gte=max(swapped, recently)))),
        failing(
            list(newest.filter(observed_at__lt=swapped, observed_at__gte=swapped - HEALTH_SPAN))
        ),
    )


def request_undo(
    *,
    actor: User,
    replaced: ReplacedDatabase,
    idempotency_key: str,
    typed_name: str,
    reason: str = "",
    consents: Sequence[str] = (),
) -> Run:
    """Queue the exchange of a replaced database with the one that replaced it.

    Both stay; what was written since the restore is in the one put aside. `consents` name what
    belongs to the live database and may stay behind. Raises Refused (invalid)
    without the typed name and (conflict) when the replaced database is no longer there.
    """
    target = replaced.target
    environment = target.environment
    authorize(actor, "restore.start", environment)
    with transaction.atomic():
        replaced = _lock(replaced)
        if replaced.drop_requested_at and not replaced.dropped_at:
            raise Refused(_("%(name)s is being dropped.") % {"name": replaced})
        if not replaced.may_be_undone:
            raise Refused(_("%(name)s is no longer kept.") % {"name": replaced})
        require_typed_name(environment, typed_name)
        return runs.request_run(
            actor=actor,
            target=target,
            reason=reason,
            idempotency_key=idempotency_key,
            parameters=UndoParameters(replaced=replaced.pk, consents=tuple(consents)),
        )


def _lock(replaced: ReplacedDatabase) -> ReplacedDatabase:
    """The row as it is now, locked so that an undo and a drop are not asked for at once."""
    return ReplacedDatabase.objects.select_for_update(of=("self",)).get(pk=replaced.pk)


def choose_way_back(
    *,
    actor: User,
    run: Run,
    reason: str,
    idempotency_key: str,
    typed_name: str = "",
    consents: Sequence[str] = (),
) -> Run:
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
        target=run.target,
        idempotency_key=idempotency_key,
        typed_name=typed_name,
        reason=reason,
        consents=consents,
        way_back_of=run,
    )


def request_drop(*, actor: User, replaced: ReplacedDatabase, typed_name: str) -> None:
    """Put the drop of a replaced database on the work list.

    Raises Refused (invalid) unless its name was typed, (conflict) when it is live or gone, is
    already being dropped, or a run is undoing it.
    """
    environment = replaced.target.environment
    authorize(actor, "replaced.drop", environment)
    if typed_name.strip() != replaced.replaced_name:
        raise Refused(_("The name does not match."), kind=Kind.INVALID, field="typed_name")
    with transaction.atomic():
        replaced = _lock(replaced)
        _require_droppable(replaced)
        item = work.add(
            DROP,
            f"{DROP}:{replaced.pk}",
            {"replaced": replaced.pk},
            about=replaced.replaced_name,
            environment=environment,
        )
        ReplacedDatabase.objects.filter(pk=replaced.pk).update(
            drop_requested_at=Now(), dropped_by=actor, drop_work=item
        )
        audit.record(
            events.DROP_REQUESTED,
            actor=actor,
            environment=environment,
            about=replaced,
            data=events.DropRequested(size_bytes=replaced.size_bytes),
        )


def _require_droppable(replaced: ReplacedDatabase) -> None:
    names: dict[str, object] = {"name": replaced}
    if replaced.dropped_at:
        raise Refused(_("%(name)s has already been dropped.") % names)
    if replaced.drop_requested_at:
        error = replaced.drop_work.last_error if replaced.drop_work else ""
        raise Refused(
            _("%(name)s is already being dropped; the last try failed: %(error)s")
            % (names | {"error": error})
            if error
            else _("%(name)s is already being dropped.") % names
        )
    if not replaced.may_be_undone:
        raise Refused(_("%(name)s is not a database that is kept.") % names)
    for run in Run.objects.holding(replaced.target_id):
        asked = parameters_of(run)
        if isinstance(asked, UndoParameters) and asked.replaced == replaced.pk:
            raise Refused(_("%(run)s is swapping %(name)s back in.") % (names | {"run": run}))


def record_drop(replaced: ReplacedDatabase) -> None:
    """Note that the server was seen without a replaced database; audited once."""
    rows = ReplacedDatabase.objects.filter(pk=replaced.pk, dropped_at=None)
    if rows.update(dropped_at=Now()):
        audit.record(
            events.REPLACED_DROPPED,
            actor=None,
            environment=replaced.target.environment,
            about=replaced,
            data=events.ReplacedDropped(
                size_bytes=replaced.size_bytes, requested_by=str(replaced.dropped_by or "")
            ),
        )
