"""The work list: what has to happen after a commit is kept until it did.

A row is written in the transaction of its act. The message to a worker is only a hint: the
scheduler sends it again until the row is done, so that work is delivered at least once.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from datetime import timedelta

from django.conf import settings
from django.db import connection, models, transaction
from django.db.models import F
from django.db.models.functions import Now
from django.utils.translation import gettext as _

from opsconsole.access.models import User
from opsconsole.access.permissions import can, reach_of
from opsconsole.access.places import CONSOLE
from opsconsole.clock import in_seconds
from opsconsole.events import recording as audit
from opsconsole.exceptions import FencedOut, Kind, Refused
from opsconsole.work import events
from opsconsole.work.models import WorkItem, WorkItemQuerySet
from opsconsole.work.registry import WORK, Arguments
from opsconsole.work.sending import send_short, task_key

logger = logging.getLogger(__name__)
DO_WORK = task_key("opsconsole.do_work")
KEEP_DONE = timedelta(days=30)


def add(
    work: str,
    key: str,
    arguments: Arguments,
    *,
    about: str = "",
    environment: models.Model | None = None,
) -> WorkItem:
    """Put work on the list, in the transaction of the act that it belongs to; return its item.

    `work` is the key of a registered Work, `key` the act's own: the same one again returns the
    item that it made before. Raises TransactionManagementError outside of a transaction,
    KeyError for unknown work, ValueError for a key that was used for something else.
    """
    if not connection.in_atomic_block:
        raise transaction.TransactionManagementError(
            f"{work} has to be added in the transaction of its act"
        )
    item, is_new = WorkItem.objects.get_or_create(
        key=key,
        defaults={
            "work": WORK[work].key,
            "arguments": arguments,
            "about": about[:200],
            "environment_id": environment.pk if environment else None,
        },
    )
    if (item.work, item.arguments) != (work, arguments):
        raise ValueError(f"the key {key} was used for other work")
    if is_new:
        transaction.on_commit(lambda: send(item.pk))
    return item


def send(item_id: int) -> bool:
    """Hint to a worker that there is work; False when the broker is away."""
    rows = WorkItem.objects.filter(pk=item_id)
    # Before it goes: a worker may have given the item back by the time the broker answers.
    rows.update(sent_at=Now())
    # The next one is on its way by then; a queue that was away must not flood its workers.
    if send_short(DO_WORK, item_id, expires=10 * settings.SWEEP_AFTER_SECONDS):
        return True
    rows.update(sent_at=None)
    return False


def sweep() -> list[int]:
    """Send what is due and was never sent, or so long ago that the hint may be lost."""
    due = WorkItem.objects.claimable().filter(work__in=list(WORK))
    overdue = in_seconds(-settings.SWEEP_AFTER_SECONDS)
    ids = (due.filter(sent_at=None) | due.filter(sent_at__lt=overdue)).values_list("pk", flat=True)
    sent = []
    for item_id in ids:
        if not send(item_id):
            break  # each try costs seconds that the scheduler has better use for
        sent.append(item_id)
    return sent


def claim(item_id: int) -> WorkItem | None:
    """Claim an item for this worker; None when it is done, not due, or another worker's."""
    token = uuid.uuid4()
    claimed = (
        WorkItem.objects.claimable()
        .filter(pk=item_id, work__in=list(WORK))
        .update(
            claim_token=token,
            lease_expires_at=in_seconds(settings.LEASE_SECONDS),
            attempts=F("attempts") + 1,
        )
    )
    return WorkItem.objects.get(pk=item_id, claim_token=token) if claimed else None


def renew(item: WorkItem) -> None:
    """Renew the lease of a claimed item. Raises FencedOut when another worker has it."""
    _update_claimed(item, lease_expires_at=in_seconds(settings.LEASE_SECONDS))


def finish(item: WorkItem, record: Callable[[], object]) -> None:
    """Mark a claimed item done and record its outcome, both or neither.

    Raises FencedOut when another worker has it, and whatever `record` raises.
    """
    with transaction.atomic():
        _update_claimed(item, done_at=Now(), lease_expires_at=None, claim_token=None, last_error="")
        record()


def give_back(item: WorkItem, error: str) -> None:
    """Have a claimed item tried again later, after a pause that doubles. Raises FencedOut."""
    _update_claimed(
        item,
        last_error=error.replace("\x00", "")[:2000],
        due_at=in_seconds(pause_after(item.attempts)),
        sent_at=None,
        lease_expires_at=None,
        claim_token=None,
    )


def pause_after(attempts: int) -> float:
    """Seconds to wait after the n-th failed attempt (from 1)."""
    doubled = settings.WORK_RETRY_SECONDS * 2.0 ** min(attempts - 1, 60)
    return float(min(doubled, settings.WORK_RETRY_CEILING_SECONDS))


def _update_claimed(item: WorkItem, **fields: object) -> None:
    changed = WorkItem.objects.filter(pk=item.pk, claim_token=item.claim_token).update(**fields)
    if not changed:
        raise FencedOut(f"work {item.pk} is no longer this worker's")


def late_work(user: User) -> WorkItemQuerySet:
    """What is late of the work that the user may see, oldest first."""
    late = work_of(user, "console.view").late(list(WORK))
    return late.select_related("environment__application")


def try_now(*, actor: User, item: WorkItem) -> None:
    """Have a late item tried at once rather than after its pause; audited.

    Raises Refused (forbidden) without the right, (conflict) when it is done, being tried, or
    unknown here.
    """
    if not work_of(actor, "work.retry").filter(pk=item.pk).exists():
        raise Refused(_("You need the role operator or admin to retry this."), kind=Kind.FORBIDDEN)
    if item.work not in WORK:
        raise Refused(
            _("This version of the console cannot do this work: %(work)s.") % {"work": item.work}
        )
    with transaction.atomic():
        changed = WorkItem.objects.idle().filter(pk=item.pk).update(due_at=Now(), sent_at=None)
        if not changed:
            raise Refused(_("It is done, or a worker is at it now."))
        audit.record(
            events.WORK_RETRIED,
            actor=actor,
            environment=item.environment,
            about=item,
            data=events.WorkRetried(
                work=item.work, attempts=item.attempts, last_error=item.last_error
            ),
        )
        transaction.on_commit(lambda: send(item.pk))


def forget_done() -> None:
    """Delete what was done long ago; what is to be done is never deleted."""
    WorkItem.objects.filter(done_at__lt=Now() - KEEP_DONE).delete()


def work_of(user: User, action: str) -> WorkItemQuerySet:
    """Items of the environments where the user may do the action; all, for an admin of everything.

    All means also those of the console itself, and of environments that are archived.
    """
    if can(user, "settings.edit", CONSOLE):
        return WorkItem.objects.all()
    return WorkItem.objects.filter(
        reach_of(user, action).among("environment", "environment__application"),
        environment__archived_at=None,
        environment__application__archived_at=None,
        environment__isnull=False,
    )
