"""Save a backup policy, preview what it would do, keep its schedules, and prune by it."""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from backups_app import events, schedules
from backups_app.choices import BackupReason, ProofLevel
from backups_app.models import Backup, BackupPolicy, ScheduledOccurrence, Storage
from backups_app.parameters import PruneParameters
from backups_app.retention import Decision, Fact, decide, simulate
from backups_app.services.backups import request_backup, request_verify
from backups_app.services.storages import require_offered
from opsconsole.access.models import User
from opsconsole.access.permissions import authorize
from opsconsole.environments.events import ENVIRONMENT_ADDED
from opsconsole.environments.models import Environment, Target
from opsconsole.events import recording as audit
from opsconsole.events.catalogue import Changed, Event
from opsconsole.events.models import AuditEvent
from opsconsole.exceptions import Kind, Refused
from opsconsole.language import in_english
from opsconsole.runs import services as runs
from opsconsole.runs.choices import RunKind, RunStatus
from opsconsole.runs.models import Run
from opsconsole.work.sending import task_key

TEND = task_key("backups_app.tend")
DAYS_SIMULATED = 365
LATE = timedelta(hours=24)
# What a careful team chooses, for an environment that is added.
NIGHTLY = "30 2 * * *"
KEEP_DAYS = 30


def back_up_nightly(event: Event[Any], row: AuditEvent) -> None:
    """Listener: an environment that somebody adds is backed up every night until they say otherwise."""
    if event is not ENVIRONMENT_ADDED or not isinstance(row.environment, Environment):
        return
    policy = BackupPolicy.objects.of(row.environment)
    if policy.pk is None:
        policy.backup_cron = NIGHTLY
        policy.keep_days = policy.keep_days or KEEP_DAYS
        policy.time_zone = timezone.get_current_timezone_name()
        policy.save()


def policy_values(policy: BackupPolicy) -> dict[str, Any]:
    """Every field of a policy as text, for the audit trail and to know what was confirmed."""
    names = [
        field.name
        for field in policy._meta.concrete_fields
        if field.name not in {"id", "environment", "changed_at"}
    ]
    copies = sorted(policy.copies.values_list("name", flat=True)) if policy.pk else []
    return {name: str(getattr(policy, name)) for name in names} | {"copies": ", ".join(copies)}


def save_policy(
    *, actor: User, policy: BackupPolicy, copies: list[Storage], before: dict[str, Any]
) -> BackupPolicy:
    """Save a policy and the storages it copies to; audited with before and after.

    Raises Refused (invalid) for a storage that is not offered to its application.
    """
    authorize(actor, "settings.edit", policy.environment)
    with transaction.atomic():
        require_offered(policy.environment.application, [policy.storage, *copies])
        policy.save()
        policy.copies.set(copies)
        audit.record(
            events.POLICY_CHANGED,
            actor=actor,
            environment=policy.environment,
            about=policy,
            data=Changed(before=before, after=policy_values(policy)),
        )
    return policy


# -- retention


def facts_of(target: Target) -> list[Fact]:
    """What retention needs to know of every backup that is not deleted."""
    busy = set(
        Run.objects.filter(
            environment__application=target.environment.application_id,
            status__in=RunStatus.holding(),
        ).values_list("parameters__backup", flat=True)
    ) | set(
        Run.objects.filter(target=target, status__in=RunStatus.holding()).values_list(
            "result__backup", flat=True
        )
    )
    return [
        Fact(
            id=backup.pk,
            taken_at=backup.taken_at,
            reason=backup.reason,
            size_bytes=backup.size_bytes,
            # One made elsewhere is no proof that this environment is backed up.
            is_proven=backup.proof >= ProofLevel.RESTORED and not backup.is_imported,
            is_held=backup.is_held,
            is_busy=backup.pk in busy or backup.run.status in RunStatus.active(),
        )
        for backup in Backup.objects.filter(target=target, deleted_at=None)
        .select_related("run")
        .defer("manifest")
    ]


def decide_for(target: Target, policy: BackupPolicy | None = None) -> list[Decision]:
    """What the policy (by default the saved one) says of each backup of the target."""
    policy = policy or BackupPolicy.objects.of(target.environment)
    return decide(facts_of(target), policy.rules)


@dataclass(frozen=True)
class Preview:
    """What a policy would do: backups that go, with why; and the year to come, month by month."""

    going: list[tuple[Backup, str]]
    kept: int
    months: list[tuple[datetime, int, int]]
    most_bytes: int


def preview_policy(policy: BackupPolicy, target: Target) -> Preview:
    """Read only: nothing is marked, whatever it says of the target's backups."""
    facts = facts_of(target)
    decisions = decide(facts, policy.rules)
    why = {d.id: d.why for d in decisions if not d.keeps}
    backups = Backup.objects.filter(pk__in=why).defer("manifest").order_by("taken_at")
    now = timezone.now()
    every = timedelta(days=1)
    if policy.backup_cron:
        every = max(
            schedules.interval(policy.backup_cron, policy.time_zone, now), timedelta(hours=1)
        )
    days = simulate(facts, policy.rules, every=every, start=now, days=DAYS_SIMULATED)
    months = [days[min(round(DAYS_SIMULATED / 12 * n), DAYS_SIMULATED) - 1] for n in range(1, 13)]
    return Preview(
        going=[(backup, why[backup.pk]) for backup in backups],
        kept=len(decisions) - len(why),
        months=months,
        most_bytes=max((size for _day, _count, size in months), default=0),
    )


def request_prune(*, actor: User | None, target: Target, idempotency_key: str) -> Run:
    """Queue a run that marks and deletes what the policy does not keep."""
    if actor is not None:
        authorize(actor, "backup.prune", target.environment)
    return runs.request_run(
        actor=actor,
        target=target,
        idempotency_key=idempotency_key,
        parameters=PruneParameters(),
    )


def prune_is_due(target: Target) -> bool:
    """Whether a prune run would change anything now."""
    now = timezone.now()
    goes = {d.id for d in decide_for(target) if not d.keeps}
    rows = Backup.objects.filter(target=target, deleted_at=None)
    return any(
        (pk in goes and (expires_at is None or expires_at <= now))
        or (pk not in goes and expires_at is not None)
        for pk, expires_at in rows.values_list("pk", "expires_at")
    )


# -- schedules


def keep_schedules(target: Target, now: datetime | None = None) -> list[Run]:
    """Queue what came due since it was last looked at; each moment makes at most one run.

    What came due while the console was away is made up for once, within a day. Safe to call
    from several processes at the same time.
    """
    now = now or timezone.now()
    policy = BackupPolicy.objects.filter(environment=target.environment).first()
    if policy is None:
        return []
    queued = []
    for kind, expression in (("backup", policy.backup_cron), ("verify", policy.verify_cron)):
        if not expression:
            continue
        due_at = schedules.last_due(expression, policy.time_zone, now)
        if due_at < policy.changed_at or now - due_at > LATE:
            continue
        run = _run_occurrence(target, policy, kind, due_at)
        if run:
            queued.append(run)
    return queued


def _run_occurrence(
    target: Target, policy: BackupPolicy, kind: str, due_at: datetime
) -> Run | None:
    """Queue the run of one moment, in the transaction that says the moment was seen to.

    A refusal is kept as why there is none. Any other error leaves no trace, and neither does a
    console that cannot write it down (unavailable): the next look tries again.
    """
    with transaction.atomic():
        occurrence, is_new = ScheduledOccurrence.objects.get_or_create(
            target=target, kind=kind, due_at=due_at
        )
        if not is_new:
            return None
        try:
            with in_english():
                occurrence.run = _request(target, policy, kind)
        except Refused as refusal:
            if refusal.kind is Kind.UNAVAILABLE:
                raise
            occurrence.refusal = str(refusal)[:500]
        occurrence.save(update_fields=["run", "refusal"])
        return occurrence.run


def _request(target: Target, policy: BackupPolicy, kind: str) -> Run:
    key = uuid.uuid4().hex
    if kind == "backup":
        return request_backup(
            actor=None, target=target, idempotency_key=key, why=BackupReason.SCHEDULED
        )
    return request_verify(
        actor=None,
        backup=choose_to_prove(target),
        idempotency_key=key,
        level=ProofLevel(policy.verify_level),
    )


def choose_to_prove(target: Target) -> Backup:
    """The newest backup every other time, else a random older one. Raises Refused without any."""
    ids = list(
        Backup.objects.filter(target=target, deleted_at=None, expires_at=None)
        .order_by("-taken_at")
        .values_list("pk", flat=True)
    )
    if not ids:
        raise Refused(_("There is no backup to prove."))
    older = ids[1:] or ids
    chosen = random.choice([ids[0], random.choice(older)])  # noqa: S311
    return Backup.objects.select_related("target__environment__application").get(pk=chosen)


def tend(target: Target) -> None:
    """What the scheduler asks for every so often: schedules, and pruning when it is due."""
    keep_schedules(target)
    last = (
        Run.objects.filter(target=target, kind=RunKind.PRUNE)
        .order_by("-id")
        .values_list("created_at", flat=True)
        .first()
    )
    pause = timedelta(seconds=settings.PRUNE_SECONDS)
    if (last is None or timezone.now() - last > pause) and prune_is_due(target):
        request_prune(actor=None, target=target, idempotency_key=uuid.uuid4().hex)
