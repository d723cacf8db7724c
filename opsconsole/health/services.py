"""Ask an environment's checks and keep what they answered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.contrib.postgres.aggregates import ArrayAgg
from django.db import transaction
from django.db.models import F, OuterRef, Q, Subquery, Sum
from django.db.models.functions import Coalesce
from django.utils import timezone
from django.utils.translation import gettext as _

from opsconsole.access.models import User
from opsconsole.access.permissions import authorize
from opsconsole.environments.calling import call_policy
from opsconsole.environments.models import Environment, Target
from opsconsole.environments.secrets import resolve_dsn
from opsconsole.events import recording as audit
from opsconsole.exceptions import AdapterError, Kind, Refused
from opsconsole.formats import one_line
from opsconsole.health import events
from opsconsole.health.choices import Health
from opsconsole.health.models import (
    EPOCH,
    HALF_HOUR,
    LONGEST_CHECK_SECONDS,
    HealthCheck,
    HealthResult,
    HealthRollup,
    half_hour_of,
)
from opsconsole.health.probes import PROBES, SUMMARY_CHARACTERS, ProbeAnswer, ProbeRequest
from opsconsole.runs.models import Run
from opsconsole.runs.patience import patiently
from opsconsole.work.sending import send_short, task_key

SAMPLE_HEALTH = task_key("opsconsole.sample_health")
STRIP_BINS = 48
CHECKS_AT_ONCE = 8
KEEP_DAYS = 30
KEEP_ROLLUP_DAYS = 366


def check_environment(environment: Environment) -> list[HealthResult]:
    """Ask every enabled check once, one in SQL of each target, and store the answers. Call it on
    a worker."""
    return keep_results(_answers(environment, environment.targets.all()))


def check_target(target: Target, *, run: Run, phase: str) -> list[HealthResult]:
    """The same for a run: those in SQL of its target alone."""
    results = _answers(target.environment, [target], run, phase)
    return patiently(lambda: keep_results(results))


def keep_results(results: list[HealthResult]) -> list[HealthResult]:
    """Store answers, and count those of no run into their half hours."""
    with transaction.atomic():
        for result in results:
            # Once, however often it is done: a row that has its key is found under it.
            result.save()
        HealthRollup.objects.add([result for result in results if result.run_id is None])
    return results


def _answers(
    environment: Environment, targets: Iterable[Target], run: Run | None = None, phase: str = ""
) -> list[HealthResult]:
    asked = [
        _Asked(check, target)
        for check in environment.health_checks.filter(is_enabled=True)
        for target in (targets if check.kind == HealthCheck.Kind.SQL else [None])
    ]
    return [
        HealthResult(
            check_name=each.check.name,
            environment=each.check.environment,
            target=each.target,
            run=run,
            phase=phase,
            is_healthy=answer.is_healthy,
            latency_ms=answer.latency_ms,
            summary=answer.summary,
            answer=answer.answer,
        )
        for each, answer in zip(asked, _ask_all(asked), strict=True)
    ]


@dataclass(frozen=True)
class _Asked:
    check: HealthCheck
    target: Target | None

    def question(self) -> ProbeRequest | ProbeAnswer:
        """What to ask; the answer at once where the address of the target cannot be had."""
        check, conninfo, own_database = self.check, "", None
        if self.target:
            try:
                dsn = resolve_dsn(self.target)
            except AdapterError as error:
                return ProbeAnswer(False, 0, one_line(str(error), SUMMARY_CHARACTERS))
            conninfo = dsn.conninfo(application_name="opsconsole:health")
            own_database = dsn.own_database
        seconds = min(check.timeout_seconds, LONGEST_CHECK_SECONDS)
        return ProbeRequest(check.address, seconds, conninfo, call_policy(), own_database)


def _ask_all(asked: list[_Asked]) -> list[ProbeAnswer]:
    """Ask at once, so that a slow answer holds up no other; each target, though, one by one."""
    lines: dict[int | str, list[int]] = defaultdict(list)
    for number, each in enumerate(asked):
        lines[each.target.pk if each.target else f"http {number}"].append(number)
    questions = [each.question() for each in asked]
    answers: dict[int, ProbeAnswer] = {}

    def ask(line: list[int]) -> None:
        for number in line:
            question = questions[number]
            if isinstance(question, ProbeRequest):
                question = PROBES[asked[number].check.kind](question)
            answers[number] = question

    if lines:
        with ThreadPoolExecutor(min(len(lines), CHECKS_AT_ONCE), "check") as pool:
            list(pool.map(ask, lines.values()))
    return [answers[number] for number in range(len(asked))]


def request_check(*, actor: User, environment: Environment) -> None:
    """Ask a worker to run the checks now. Raises Refused (unavailable) when none can be asked."""
    authorize(actor, "health.check", environment)
    with transaction.atomic():
        audit.record(
            events.CHECK_REQUESTED, actor=actor, environment=environment, about=environment
        )
    if not send_short(SAMPLE_HEALTH, environment.pk):
        raise Refused(
            _("Health cannot be checked now: the broker does not answer."), kind=Kind.UNAVAILABLE
        )


@dataclass(frozen=True)
class HealthDay:
    """The last 48 half hours of one environment, the present one among them: a strip, uptime in
    per cent, the average latency of healthy answers in ms."""

    now: Health
    latest: list[HealthResult]
    bins: list[int | None]
    uptime: float | None
    mean_ms: float | None
    last_failure: HealthResult | None

    @property
    def title(self) -> str:
        failed = sum(1 for value in self.bins if value == 2)
        if self.uptime is None:
            return _("No sample yet")
        return _(
            "%(percent)s %% healthy in 24 hours, failures in %(failed)d of %(all)d half hours"
        ) % {
            "percent": f"{self.uptime:.2f}",
            "failed": failed,
            "all": STRIP_BINS,
        }


@dataclass(frozen=True)
class _Series:
    """The half hours of one check in a day, the newest first: ids, when they began, their sums."""

    environment_id: int
    target_id: int | None
    check_name: str
    rollups: list[int]
    starts: list[datetime]
    failing_rollups: list[int]
    failing_starts: list[datetime]
    sampled: int
    failed: int
    latency_ms: float


def health_days(environments: list[Environment]) -> dict[int, HealthDay]:
    """`{environment id: HealthDay}` with two queries, whatever their number and their samples'."""
    start = half_hour_of(timezone.now()) - (STRIP_BINS - 1) * HALF_HOUR
    found = _series_of(environments, start)
    series: dict[int, list[_Series]] = defaultdict(list)
    for each in found:
        series[each.environment_id].append(each)
    results: dict[int, list[HealthResult]] = defaultdict(list)
    for result in _telling(found):
        results[result.environment_id].append(result)
    return {e.pk: _summarize(start, series[e.pk], results[e.pk]) for e in environments}


def unhealthy_since(failing: Iterable[HealthResult]) -> dict[int, datetime]:
    """`{result id: moment}`: since when each check of these answers has failed without a break.

    One query. Half hours lead to the last good answer, however many bad ones came after it.
    """
    same = {
        "environment": OuterRef("environment"),
        "asked": OuterRef("asked"),
        "check_name": OuterRef("check_name"),
    }
    samples = HealthResult.objects.with_asked().filter(run=None, **same)
    halves = HealthRollup.objects.with_asked().filter(samples__gt=F("unhealthy"), **same)
    good = samples.filter(is_healthy=True, observed_at__gte=OuterRef("good_half")).order_by(
        "-observed_at"
    )
    bad = samples.filter(is_healthy=False, observed_at__gt=OuterRef("last_good")).order_by(
        "observed_at"
    )
    found = (
        HealthResult.objects.with_asked()
        .filter(pk__in=[result.pk for result in failing])
        .annotate(good_half=Subquery(halves.order_by("-starts_at").values("starts_at")[:1]))
        .annotate(last_good=Coalesce(Subquery(good.values("observed_at")[:1]), EPOCH))
        .annotate(since=Coalesce(Subquery(bad.values("observed_at")[:1]), F("observed_at")))
    )
    return dict(found.values_list("pk", "since"))


def _series_of(environments: list[Environment], start: datetime) -> list[_Series]:
    failing = Q(unhealthy__gt=0)
    rows = (
        HealthRollup.objects.filter(environment__in=environments, starts_at__gte=start)
        .order_by()
        .values("environment_id", "target_id", "check_name")
        .annotate(
            rollups=ArrayAgg("pk", order_by="-starts_at"),
            starts=ArrayAgg("starts_at", order_by="-starts_at"),
            failing_rollups=ArrayAgg("pk", order_by="-starts_at", filter=failing, default=[]),
            failing_starts=ArrayAgg("starts_at", filter=failing, default=[]),
            sampled=Sum("samples"),
            failed=Sum("unhealthy"),
            latency_ms=Sum("latency_sum_ms"),
        )
    )
    return [_Series(**row) for row in rows]


def _telling(series: list[_Series]) -> Iterable[HealthResult]:
    """The newest answer of each check and the newest that failed, the newest first."""
    samples = HealthResult.objects.all()
    latest = samples.newest_in([each.rollups[0] for each in series])
    failures = samples.filter(is_healthy=False).newest_in(
        [each.failing_rollups[0] for each in series if each.failing_rollups]
    )
    return latest.union(failures, all=True).order_by("-observed_at")


def _summarize(start: datetime, series: list[_Series], results: list[HealthResult]) -> HealthDay:
    samples = sum(each.sampled for each in series)
    healthy = samples - sum(each.failed for each in series)
    latest: dict[tuple[int | None, str], HealthResult] = {}
    for result in results:
        latest.setdefault((result.target_id, result.check_name), result)
    return HealthDay(
        now=_now(list(latest.values())),
        latest=list(latest.values()),
        bins=_bins(start, series),
        uptime=100 * healthy / samples if samples else None,
        mean_ms=sum(each.latency_ms for each in series) / healthy if healthy else None,
        last_failure=next((result for result in results if not result.is_healthy), None),
    )


def _bins(start: datetime, series: list[_Series]) -> list[int | None]:
    """2 for a half hour in which a check failed, 0 for a good one, None without a sample.

    What a clock that is ahead says of the future is shown in the last half hour.
    """
    bins: list[int | None] = [None] * STRIP_BINS
    for each in series:
        for value, starts in ((0, each.starts), (2, each.failing_starts)):
            for began in starts:
                index = min(STRIP_BINS - 1, (began - start) // HALF_HOUR)
                bins[index] = max(bins[index] or 0, value)
    return bins


def _now(latest: list[HealthResult]) -> Health:
    if not latest:
        return Health.UNKNOWN
    return Health.HEALTHY if all(s.is_healthy for s in latest) else Health.UNHEALTHY


def forget_old_samples() -> int:
    """Delete scheduled samples older than 30 days; returns how many. Those of runs stay, and
    half hours stay for a year."""
    now = timezone.now()
    HealthRollup.objects.filter(starts_at__lt=now - timedelta(days=KEEP_ROLLUP_DAYS)).delete()
    limit = now - timedelta(days=KEEP_DAYS)
    return HealthResult.objects.filter(run=None, observed_at__lt=limit).delete()[0]
