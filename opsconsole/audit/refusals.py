"""Refusals in the audit trail: each of somebody signed in, those of strangers by the minute."""

from __future__ import annotations

from django.db import transaction
from django.db.models.functions import Now, TruncMinute

from opsconsole.access.models import User
from opsconsole.audit import events
from opsconsole.audit.choices import Stranger
from opsconsole.audit.models import StrangerCount
from opsconsole.events import recording as audit
from opsconsole.events.models import AuditEvent
from opsconsole.events.recording import Origin, origin

LONGEST_PATH = 300


def record_refusal(*, actor: User, method: str, path: str, status: int) -> None:
    """Record that a person was refused a request; `status` is the HTTP status of the answer."""
    shown = path.replace("\x00", "")[:LONGEST_PATH]
    with transaction.atomic():
        audit.record(
            events.ACCESS_REFUSED,
            actor=actor,
            outcome=AuditEvent.Outcome.DENIED,
            data=events.AccessRefused(method=method, path=shown, status=status),
        )


def count_stranger(address: str, kind: Stranger) -> None:
    """Count a refusal of nobody signed in, by the address that it came from."""
    StrangerCount.objects.add(address, kind)


def record_strangers() -> int:
    """Move the counts of the minutes that are over to the audit trail; returns how many."""
    with transaction.atomic():
        over = list(
            StrangerCount.objects.select_for_update(skip_locked=True)
            .filter(minute__lt=TruncMinute(Now()))
            .order_by("minute", "pk")
        )
        for row in over:
            _record(row)
        StrangerCount.objects.filter(pk__in=[row.pk for row in over]).delete()
    return len(over)


def _record(row: StrangerCount) -> None:
    came_from = origin.set(Origin(ip=row.address or None))
    try:
        audit.record(
            events.STRANGERS_REFUSED,
            actor=None,
            outcome=AuditEvent.Outcome.DENIED,
            data=events.StrangersRefused(
                kind=row.kind, count=row.count, minute=row.minute.isoformat()
            ),
        )
    finally:
        origin.reset(came_from)
