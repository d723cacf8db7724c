"""What is wrong with an environment's backups, each in one sentence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from datetime import datetime, timedelta
from statistics import median

from django.utils import dateformat, timezone
from django.utils.translation import gettext as _

from backups_app.choices import BackupReason, ProofLevel
from backups_app.models import Backup, BackupCopy, BackupPolicy, ScheduledOccurrence
from backups_app.models.backup import CopyState
from opsconsole.environments.models import Target
from opsconsole.formats import count, size
from opsconsole.runs.choices import RunStatus

# A backup this much smaller or larger than its predecessors' median is worth a look.
SIZE_FACTOR = 2.0
SIZES_COMPARED = 7
UNHEALTHY = (CopyState.CORRUPT, CopyState.MISSING, CopyState.FAILED, CopyState.UNREACHABLE)


def alarms_of(
    targets: Collection[Target], policies: dict[int, BackupPolicy] | None = None
) -> dict[int, list[str]]:
    """`{target id: sentences}`, with the same number of queries for any number of them.

    `policies` are those of their environments, by these, where the caller has read them.
    """
    if policies is None:
        policies = BackupPolicy.objects.by_environment([t.environment for t in targets])
    ids = [target.pk for target in targets]
    found: dict[int, list[str]] = defaultdict(list)
    backups: dict[int, list[Backup]] = defaultdict(list)
    for backup in (
        Backup.objects.filter(target__in=ids, deleted_at=None)
        .exclude(reason=BackupReason.IMPORTED)
        .only("target_id", "taken_at", "size_bytes", "proof", "proof_problem", "expires_at")
        .order_by("-taken_at")
    ):
        backups[backup.target_id].append(backup)
    for target in targets:
        own = backups[target.pk]
        policy = policies.get(target.environment_id)
        since = target.environment.created_at
        found[target.pk] += _age_alarms(own, policy, since) + _size_alarms(own) + _proof_alarms(own)
    for target_id, text in _missed(ids) + _bad_copies(ids):
        found[target_id].append(text)
    return found


def _age_alarms(backups: list[Backup], policy: BackupPolicy | None, since: datetime) -> list[str]:
    """`since` is when the environment was added: a new one has as long as the policy allows."""
    hours = policy.alarm_hours if policy else None
    if not hours:
        return []
    newest = next((b.taken_at for b in backups if b.proof >= ProofLevel.RESTORED), None)
    allowed = timedelta(hours=hours)
    age = timezone.now() - (newest or since)
    if age <= allowed:
        return []
    if newest is None:
        return [
            _("No backup is proven; the policy asks for one every %(hours)s h.") % {"hours": hours}
        ]
    return [
        _("The newest proven backup is %(age)s h old; the policy allows %(hours)s h.")
        % {"age": count(round(age / timedelta(hours=1))), "hours": hours}
    ]


def _size_alarms(backups: list[Backup]) -> list[str]:
    sizes = [backup.size_bytes for backup in backups[: SIZES_COMPARED + 1]]
    if len(sizes) < 4:
        return []
    usual = median(sizes[1:])
    if usual / SIZE_FACTOR <= sizes[0] <= usual * SIZE_FACTOR:
        return []
    return [
        _("The newest backup has %(size)s; the last ones had about %(usual)s.")
        % {"size": size(sizes[0]), "usual": size(usual)}
    ]


def _proof_alarms(backups: list[Backup]) -> list[str]:
    return [
        _("Backup %(id)s did not hold when it was proven: %(problem)s")
        % {"id": backup.pk, "problem": backup.proof_problem}
        for backup in backups
        if backup.proof_problem and backup.expires_at is None
    ][:3]


def _missed(ids: list[int]) -> list[tuple[int, str]]:
    """The newest occurrence of each schedule, where it made no run or its run did not succeed."""
    newest = (
        ScheduledOccurrence.objects.filter(target__in=ids)
        .select_related("run")
        .order_by("target_id", "kind", "-due_at")
        .distinct("target_id", "kind")
    )
    return [
        (one.target_id, _sentence(one.kind, one.due_at, one.refusal))
        for one in newest
        if one.refusal or (one.run and one.run.status in _ENDED_BADLY)
    ]


_ENDED_BADLY = {RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.NEEDS_ATTENTION}


def _sentence(kind: str, due_at: datetime, refusal: str) -> str:
    return _("The scheduled %(kind)s of %(when)s was missed: %(why)s") % {
        "kind": _("backup") if kind == "backup" else _("proof"),
        "when": f"{dateformat.format(due_at, 'd M, H:i')} UTC",
        "why": refusal or _("its run did not succeed."),
    }


def _bad_copies(ids: list[int]) -> list[tuple[int, str]]:
    copies = (
        BackupCopy.objects.filter(
            state__in=UNHEALTHY, backup__target__in=ids, backup__deleted_at=None
        )
        .select_related("storage", "backup")
        .defer("backup__manifest")[:20]
    )
    return [
        (
            copy.backup.target_id,
            _copy_sentence(copy)
            % {"id": copy.backup_id, "storage": copy.storage, "state": copy.look.label},
        )
        for copy in copies
    ]


def _copy_sentence(copy: BackupCopy) -> str:
    if copy.is_unknown:
        return _("The copy of backup %(id)s in %(storage)s could not be checked.")
    return _("The copy of backup %(id)s in %(storage)s is %(state)s.")
