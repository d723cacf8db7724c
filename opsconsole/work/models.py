"""Work that has to be done after a commit, kept until it is."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone


class WorkItemQuerySet(models.QuerySet["WorkItem"]):
    def pending(self) -> WorkItemQuerySet:
        return self.filter(done_at=None)

    def idle(self) -> WorkItemQuerySet:
        """To be done, and no worker is at it: never claimed, given back, or its lease is over."""
        return self.pending().filter(~_is_held())

    def claimable(self) -> WorkItemQuerySet:
        return self.idle().filter(due_at__lte=Now())

    def late(self, known: list[str]) -> WorkItemQuerySet:
        """Tried several times, overdue, or of a kind that is not among the `known` keys."""
        tries = settings.WORK_LATE_ATTEMPTS
        overdue = Q(due_at__lt=Now() - timedelta(seconds=settings.WORK_LATE_SECONDS))
        return self.pending().filter(
            Q(attempts__gt=tries)
            | (~_is_held() & (overdue | Q(attempts=tries)))
            | ~Q(work__in=known)
        )


def _is_held() -> Q:
    return Q(lease_expires_at__isnull=False, lease_expires_at__gte=Now())


class WorkItem(models.Model):
    """One piece of work, written in the transaction of the act that it belongs to.

    `work` is the key of a registered `Work`. `key` is the act's own: the same one again adds
    nothing. `about` names for people what it is done to. An item without an environment belongs
    to the console as a whole. `due_at` is when it may be tried next; `sent_at`, when the broker
    last took a hint for this try.
    """

    work = models.CharField(max_length=64)
    key = models.CharField(max_length=200, unique=True)
    arguments = models.JSONField(default=dict)
    about = models.CharField(max_length=200, blank=True)
    environment = models.ForeignKey(
        "Environment", null=True, on_delete=models.PROTECT, related_name="work"
    )
    created_at = models.DateTimeField(db_default=Now())
    due_at = models.DateTimeField(db_default=Now())
    sent_at = models.DateTimeField(null=True)
    attempts = models.PositiveIntegerField(default=0)
    last_error = models.TextField(blank=True)
    claim_token = models.UUIDField(null=True)
    lease_expires_at = models.DateTimeField(null=True)
    done_at = models.DateTimeField(null=True)

    objects = WorkItemQuerySet.as_manager()

    class Meta:
        ordering = ["id"]
        indexes = [
            models.Index(fields=["due_at"], condition=Q(done_at=None), name="work_to_be_done")
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(claim_token=None, lease_expires_at=None)
                | Q(claim_token__isnull=False, lease_expires_at__isnull=False, done_at=None),
                name="work_claimed_with_a_lease",
            )
        ]

    def __str__(self) -> str:
        return f"{self.work} ({self.key})"

    @property
    def is_being_tried(self) -> bool:
        return self.lease_expires_at is not None and self.lease_expires_at >= timezone.now()

    @property
    def is_late(self) -> bool:
        """The same as `late()` says of a row of known work."""
        if self.done_at or self.attempts > settings.WORK_LATE_ATTEMPTS:
            return self.done_at is None
        overdue = timezone.now() - self.due_at > timedelta(seconds=settings.WORK_LATE_SECONDS)
        has_failed = self.attempts == settings.WORK_LATE_ATTEMPTS
        return not self.is_being_tried and (overdue or has_failed)
