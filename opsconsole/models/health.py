"""Health checks of an environment, and what each of them answered."""

from __future__ import annotations

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _


class HealthCheck(models.Model):
    """One probe of an environment: `kind` names an entry of `opsconsole.probes.PROBES`."""

    class Kind(models.TextChoices):
        HTTP = "http", _("HTTP address answering JSON")
        SQL = "sql", _("SQL query on the target")

    environment = models.ForeignKey(
        "Environment", on_delete=models.CASCADE, related_name="health_checks"
    )
    name = models.CharField(_("name"), max_length=80)
    kind = models.CharField(_("kind"), max_length=8, choices=Kind.choices, default=Kind.HTTP)
    address = models.CharField(
        _("address or query"),
        max_length=500,
        help_text=_("An http(s) address, or a query that returns one row."),
    )
    timeout_seconds = models.PositiveSmallIntegerField(_("timeout (s)"), default=5)
    is_enabled = models.BooleanField(_("enabled"), default=True)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(fields=["environment", "name"], name="health_check_once")
        ]

    def __str__(self) -> str:
        return self.name


class HealthResult(models.Model):
    """One answer of one check. A sample of the minute, or part of a run."""

    check_name = models.CharField(max_length=80)
    environment = models.ForeignKey(
        "Environment", on_delete=models.CASCADE, related_name="health_results"
    )
    run = models.ForeignKey(
        "Run", null=True, blank=True, on_delete=models.CASCADE, related_name="health_results"
    )
    phase = models.CharField(max_length=16, blank=True)
    observed_at = models.DateTimeField(default=timezone.now)
    is_healthy = models.BooleanField()
    latency_ms = models.FloatField()
    summary = models.CharField(max_length=500)
    answer = models.JSONField(default=dict)

    class Meta:
        ordering = ["-observed_at"]
        indexes = [
            models.Index(fields=["environment", "-observed_at"]),
            models.Index(fields=["run", "observed_at"]),
        ]

    def __str__(self) -> str:
        return f"{self.check_name}: {self.summary}"
