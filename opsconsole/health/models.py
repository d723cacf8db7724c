"""Health checks of an environment, and what each of them answered."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

from django.db import connection, models
from django.db.models import F, OuterRef, Q, Subquery
from django.db.models.functions import Coalesce
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

# A worker waits no longer, whatever a check is set to.
LONGEST_CHECK_SECONDS = 30
HALF_HOUR = timedelta(minutes=30)
# When in a run a check was asked.
PHASES = {"before": _("before"), "after": _("after"), "rolled back": _("rolled back")}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class HealthCheck(models.Model):
    """One probe of an environment: `kind` names an entry of `opsconsole.health.probes.PROBES`."""

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


def _asked() -> Coalesce:
    """The target, 0 for a check of the environment: NULLs would not meet in a unique key."""
    return Coalesce("target", 0, output_field=models.BigIntegerField())


def half_hour_of(moment: datetime) -> datetime:
    """When the half hour of that moment began."""
    return moment - (moment - EPOCH) % HALF_HOUR


class HealthResultQuerySet(models.QuerySet["HealthResult"]):
    def with_asked(self) -> HealthResultQuerySet:
        """With `asked`: the target, 0 for a check of the environment."""
        return self.annotate(asked=_asked())

    def newest_in(self, rollups: Collection[int]) -> HealthResultQuerySet:
        """The newest of these samples in each rollup (by its id), without the answer as data.

        Costs one look into an index for each half hour, however many samples there are.
        """
        samples = (
            self.annotate(asked=_asked())
            .filter(
                run=None,
                environment=OuterRef("environment"),
                asked=OuterRef("asked"),
                check_name=OuterRef("check_name"),
                observed_at__gte=OuterRef("starts_at"),
                observed_at__lt=OuterRef("starts_at") + HALF_HOUR,
            )
            .order_by("-observed_at")
        )
        newest = (
            HealthRollup.objects.filter(pk__in=rollups)
            .annotate(asked=_asked())
            .values(newest=Subquery(samples.values("pk")[:1]))
        )
        return HealthResult.objects.filter(pk__in=newest).defer("answer").order_by()


class HealthResult(models.Model):
    """One answer of one check. A sample of the minute, or part of a run.

    `target` is the database that was asked; none where the check belongs to the environment.
    """

    check_name = models.CharField(max_length=80)
    environment = models.ForeignKey(
        "Environment", on_delete=models.CASCADE, related_name="health_results"
    )
    target = models.ForeignKey(
        "Target",
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        db_index=False,
        related_name="health_results",
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

    objects = HealthResultQuerySet.as_manager()

    class Meta:
        ordering = ["-observed_at"]
        indexes = [
            models.Index(fields=["environment", "-observed_at"]),
            models.Index(fields=["run", "observed_at"]),
            models.Index(
                F("environment"),
                _asked(),
                F("check_name"),
                F("observed_at").desc(),
                condition=Q(run=None),
                name="health_sample_of_check",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.check_name}: {self.summary}"

    @property
    def phase_word(self) -> str:
        return str(PHASES.get(self.phase, self.phase))


class HealthRollupQuerySet(models.QuerySet["HealthRollup"]):
    def with_asked(self) -> HealthRollupQuerySet:
        """With `asked`, as of the samples."""
        return self.annotate(asked=_asked())

    def add(self, samples: Sequence[HealthResult]) -> None:
        """Count stored samples in. Call it once for each, in the transaction that stores them."""
        with connection.cursor() as cursor:
            cursor.execute(_ADD, [[sample.pk for sample in samples]])


# In the order of the key, so that two samplers that meet wait for each other in one direction.
_ADD = """
    INSERT INTO opsconsole_healthrollup AS rollup (
        environment_id, target_id, check_name, starts_at,
        samples, unhealthy, latency_sum_ms, latency_min_ms, latency_max_ms
    )
    SELECT
        environment_id, target_id, check_name,
        date_bin('30 minutes', observed_at, 'epoch'::timestamptz),
        count(*), count(*) FILTER (WHERE NOT is_healthy),
        coalesce(sum(latency_ms) FILTER (WHERE is_healthy), 0),
        min(latency_ms) FILTER (WHERE is_healthy), max(latency_ms) FILTER (WHERE is_healthy)
    FROM opsconsole_healthresult WHERE id = ANY(%s)
    GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
    ON CONFLICT (environment_id, coalesce(target_id, 0), check_name, starts_at) DO UPDATE SET
        samples = rollup.samples + excluded.samples,
        unhealthy = rollup.unhealthy + excluded.unhealthy,
        latency_sum_ms = rollup.latency_sum_ms + excluded.latency_sum_ms,
        latency_min_ms = least(rollup.latency_min_ms, excluded.latency_min_ms),
        latency_max_ms = greatest(rollup.latency_max_ms, excluded.latency_max_ms)
"""


class HealthRollup(models.Model):
    """The samples of one check in one half hour: what strips and charts are drawn from.

    Latencies (ms) are of the healthy answers; smallest and largest are None where there is none.
    """

    environment = models.ForeignKey(
        "Environment", on_delete=models.CASCADE, db_index=False, related_name="health_rollups"
    )
    target = models.ForeignKey(
        "Target",
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        db_index=False,
        related_name="health_rollups",
    )
    check_name = models.CharField(max_length=80)
    starts_at = models.DateTimeField()
    samples = models.PositiveIntegerField()
    unhealthy = models.PositiveIntegerField()
    latency_sum_ms = models.FloatField()
    latency_min_ms = models.FloatField(null=True)
    latency_max_ms = models.FloatField(null=True)

    objects = HealthRollupQuerySet.as_manager()

    class Meta:
        ordering = ["-starts_at"]
        indexes = [models.Index(fields=["environment", "-starts_at"], name="health_rollup_of_day")]
        constraints = [
            models.UniqueConstraint(
                F("environment"),
                _asked(),
                F("check_name"),
                F("starts_at"),
                name="health_rollup_once",
            )
        ]

    def __str__(self) -> str:
        return f"{self.check_name}: {self.samples} samples from {self.starts_at:%Y-%m-%d %H:%M}"
