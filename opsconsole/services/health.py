"""Ask an environment's checks and keep what they answered."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from django.utils import timezone

from opsconsole.choices import Health
from opsconsole.exceptions import AdapterError
from opsconsole.models import Environment, HealthCheck, HealthResult, Run, User
from opsconsole.permissions import authorize
from opsconsole.probes import PROBES, ProbeAnswer, ProbeRequest
from opsconsole.services import audit
from opsconsole.services.secrets import resolve_dsn

STRIP_BINS = 48
KEEP_DAYS = 30


def check_environment(
    environment: Environment, *, run: Run | None = None, phase: str = ""
) -> list[HealthResult]:
    """Ask every enabled check once and store the answers. Call it on a worker."""
    results = [
        _result(environment, check, run, phase)
        for check in environment.health_checks.filter(is_enabled=True)
    ]
    return HealthResult.objects.bulk_create(results)


def _result(
    environment: Environment, check: HealthCheck, run: Run | None, phase: str
) -> HealthResult:
    answer = _ask(environment, check)
    return HealthResult(
        check_name=check.name,
        environment=environment,
        run=run,
        phase=phase,
        is_healthy=answer.is_healthy,
        latency_ms=answer.latency_ms,
        summary=answer.summary.replace("\x00", ""),
        answer=answer.answer,
    )


def _ask(environment: Environment, check: HealthCheck) -> ProbeAnswer:
    conninfo = ""
    if check.kind == HealthCheck.Kind.SQL:
        try:
            dsn = resolve_dsn(environment.target)
        except AdapterError as error:
            return ProbeAnswer(False, 0, str(error))
        conninfo = dsn.conninfo(application_name="opsconsole:health")
    request = ProbeRequest(check.address, check.timeout_seconds, conninfo)
    return PROBES[check.kind](request)


def request_check(*, actor: User, environment: Environment) -> None:
    """Record that a person asks for a check now; the caller queues the task."""
    authorize(actor, "health.check", environment)
    audit.record("health.check_requested", actor=actor, environment=environment, about=environment)


@dataclass(frozen=True)
class HealthDay:
    """The last 24 hours of one environment: a strip, uptime in per cent, median latency in ms."""

    now: Health
    latest: list[HealthResult]
    bins: list[int | None]
    uptime: float | None
    median_ms: float | None
    last_failure: HealthResult | None

    @property
    def title(self) -> str:
        failed = sum(1 for value in self.bins if value == 2)
        if self.uptime is None:
            return "No sample yet"
        return f"{self.uptime:.2f} % healthy in 24 hours, failures in {failed} of {STRIP_BINS} half hours"


def summarize(samples: list[HealthResult]) -> HealthDay:
    """Build the day from the scheduled samples of one environment, newest first."""
    now = timezone.now()
    day = [s for s in samples if now - s.observed_at < timedelta(hours=24)]
    bins: list[int | None] = [None] * STRIP_BINS
    for sample in day:
        age = (now - sample.observed_at).total_seconds() / 86400
        index = min(STRIP_BINS - 1, max(0, int((1 - age) * STRIP_BINS)))
        bins[index] = max(bins[index] or 0, 0 if sample.is_healthy else 2)
    latest: dict[str, HealthResult] = {}
    for sample in samples:
        latest.setdefault(sample.check_name, sample)
    latencies = sorted(s.latency_ms for s in day if s.is_healthy)
    return HealthDay(
        now=_now(list(latest.values())),
        latest=list(latest.values()),
        bins=bins,
        uptime=100 * sum(s.is_healthy for s in day) / len(day) if day else None,
        median_ms=latencies[len(latencies) // 2] if latencies else None,
        last_failure=next((s for s in day if not s.is_healthy), None),
    )


def _now(latest: list[HealthResult]) -> Health:
    if not latest:
        return Health.UNKNOWN
    return Health.HEALTHY if all(s.is_healthy for s in latest) else Health.UNHEALTHY


def health_days(environments: list[Environment]) -> dict[int, HealthDay]:
    """`{environment id: HealthDay}` with one query, whatever their number."""
    since = timezone.now() - timedelta(hours=24)
    samples: dict[int, list[HealthResult]] = {e.pk: [] for e in environments}
    for result in HealthResult.objects.filter(
        environment__in=environments, observed_at__gt=since, run=None
    ).order_by("-observed_at"):
        samples[result.environment_id].append(result)
    return {pk: summarize(found) for pk, found in samples.items()}


def forget_old_samples() -> int:
    """Delete scheduled samples older than 30 days; returns how many. Those of runs stay."""
    limit = timezone.now() - timedelta(days=KEEP_DAYS)
    return HealthResult.objects.filter(run=None, observed_at__lt=limit).delete()[0]
