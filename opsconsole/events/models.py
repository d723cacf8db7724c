"""The audit trail: inserts only, enforced by triggers in the database."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _


class AuditQuerySet(models.QuerySet["AuditEvent"]):
    def matching(
        self, *, who: str = "", what: str = "", since: object = None, until: object = None,
        environment: models.Model | None = None,
    ) -> AuditQuerySet:  # fmt: skip
        """Filter by part of the actor's label or of the action, by time, by environment."""
        events = self.select_related("environment__application", "run")
        if who:
            events = events.filter(actor_label__icontains=who)
        if what:
            events = events.filter(action__icontains=what)
        if since:
            events = events.filter(occurred_at__gte=since)
        if until:
            events = events.filter(occurred_at__lt=until)
        if environment:
            events = events.filter(environment=environment)
        return events


class AuditEvent(models.Model):
    """Who did what to which object, when, from where, why, and how it ended.

    Actor and object are also kept as text, because both can be archived or renamed.
    """

    class Outcome(models.TextChoices):
        ATTEMPT = "attempt", _("Attempt")
        OK = "ok", _("Done")
        DENIED = "denied", _("Denied")
        ERROR = "error", _("Error")

    occurred_at = models.DateTimeField(db_default=Now())
    action = models.CharField(max_length=64)
    outcome = models.CharField(max_length=8, choices=Outcome.choices, default=Outcome.OK)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.DO_NOTHING, db_constraint=False,
        related_name="+",
    )  # fmt: skip
    actor_label = models.CharField(max_length=200)
    actor_kind = models.CharField(max_length=16)
    ip = models.GenericIPAddressField(null=True)
    user_agent = models.CharField(max_length=300, blank=True)
    request_id = models.CharField(max_length=64, blank=True)
    environment = models.ForeignKey(
        "Environment", null=True, on_delete=models.DO_NOTHING, db_constraint=False,
        related_name="+",
    )  # fmt: skip
    run = models.ForeignKey(
        "Run", null=True, on_delete=models.DO_NOTHING, db_constraint=False, related_name="+"
    )
    object_type = models.CharField(max_length=64, blank=True)
    object_id = models.CharField(max_length=64, blank=True)
    object_label = models.CharField(max_length=200, blank=True)
    reason = models.TextField(blank=True)
    details = models.JSONField(default=dict)
    app_version = models.CharField(max_length=32)

    objects = AuditQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["environment", "-id"]),
            models.Index(fields=["action", "-id"]),
        ]

    def __str__(self) -> str:
        return f"{self.action} by {self.actor_label}"

    def changes(self) -> list[tuple[str, Any, Any]]:
        """Each setting that this act changed, with its value before and after (None: not set)."""
        before, after = self.details.get("before") or {}, self.details.get("after") or {}
        return [
            (name, before.get(name), after.get(name))
            for name in sorted({**before, **after})
            if before.get(name) != after.get(name)
        ]

    def facts(self) -> dict[str, Any]:
        """What else was recorded with it, by name."""
        return {k: v for k, v in sorted(self.details.items()) if k not in {"before", "after"}}
