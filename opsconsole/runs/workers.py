from __future__ import annotations

from datetime import timedelta

from django.db import models
from django.utils import timezone


class WorkerQuerySet(models.QuerySet["Worker"]):
    def alive(self) -> WorkerQuerySet:
        return self.filter(last_seen_at__gt=timezone.now() - timedelta(seconds=20))

    def without_key(self, mark: str) -> list[str]:
        """The names of those that have no encryption key of that mark."""
        return [one.name for one in self.order_by("name") if mark not in one.key_marks.split()]


class Worker(models.Model):
    """A Celery worker process, as it last reported itself."""

    name = models.CharField(max_length=200, unique=True)
    host = models.CharField(max_length=200)
    pid = models.PositiveIntegerField()
    queues = models.JSONField(default=list)
    started_at = models.DateTimeField(default=timezone.now)
    last_seen_at = models.DateTimeField(default=timezone.now)
    # What its encryption keys are told apart by, with spaces between.
    key_marks = models.TextField(blank=True, db_default="")

    objects = WorkerQuerySet.as_manager()

    def __str__(self) -> str:
        return self.name
