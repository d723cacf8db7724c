"""What needs somebody: the lines of the platform's own, and all of them in order."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db.models import F, OuterRef, Subquery
from django.db.models.functions import Coalesce
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _

from opsconsole.access.models import User
from opsconsole.access.permissions import can
from opsconsole.environments.models import TargetState
from opsconsole.health.choices import Health
from opsconsole.health.models import EPOCH, HealthCheck
from opsconsole.health.services import unhealthy_since
from opsconsole.overview.panels import NEEDS, Act, Concern, Need, Stage
from opsconsole.runs.choices import RunKind, RunStatus

# A run that failed longer ago is history: nobody has come back to it.
FAILURES_SHOWN = timedelta(days=7)


def needs_of(user: User, stages: list[Stage]) -> list[Need]:
    """All lines, the worst first; of the same kind those of protected environments first."""
    sources = [_decisions, _unhealthy, _failed, _unreadable, _unchecked, *NEEDS]
    found = [need for source in sources for need in source(user, stages)]
    return sorted(found, key=lambda n: (n.concern.rank, not n.environment.is_protected))


def view_environment(stage: Stage, part: str = "") -> Act:
    """The act of who may look and do no more."""
    url = stage.environment.get_absolute_url()
    return Act(_("View environment"), f"{url}#{part}" if part else url)


def _decisions(user: User, stages: list[Stage]) -> Iterable[Need]:
    for stage in stages:
        if run := stage.holder:
            may = can(user, "run.decide", stage.environment)
            yield Need(
                Concern.DECISION,
                stage.environment,
                _("%(run)s needs a decision: %(title)s.") % {"run": run, "title": run.title},
                Act(_("Decide") if may else _("View run"), run.get_absolute_url()),
                run.finished_at or run.created_at,
                run.told,
                is_recorded=not run.summary_parts,
            )


def _unhealthy(user: User, stages: list[Stage]) -> Iterable[Need]:
    failing = {
        stage.target.pk: [result for result in stage.day.latest if not result.is_healthy]
        for stage in stages
        if stage.day.now is Health.UNHEALTHY
    }
    if not failing:
        return
    since = unhealthy_since(result for results in failing.values() for result in results)
    for stage in stages:
        if results := failing.get(stage.target.pk):
            first = min(results, key=lambda result: since[result.pk])
            yield Need(
                Concern.UNHEALTHY,
                stage.environment,
                _("The application is unhealthy."),
                Act(_("View health"), f"{stage.environment.get_absolute_url()}#health"),
                since[first.pk],
                str(first),
                is_recorded=True,
            )


def _failed(user: User, stages: list[Stage]) -> Iterable[Need]:
    """The last change, where it failed and no other line says the same of it."""
    for stage in stages:
        run = stage.change
        if not run or run.state is not RunStatus.FAILED:
            continue
        ended = run.finished_at or run.created_at
        troubled = stage.state is not None and stage.state.troubled
        if ended < timezone.now() - FAILURES_SHOWN or (run.kind == RunKind.MIGRATE and troubled):
            continue
        yield Need(
            Concern.FAILED,
            stage.environment,
            _("%(run)s failed: %(title)s.") % {"run": run, "title": run.title},
            Act(_("View run"), run.get_absolute_url()),
            ended,
            run.told,
            is_recorded=not run.summary_parts,
        )


def _unreadable(user: User, stages: list[Stage]) -> Iterable[Need]:
    errors = [stage.state for stage in stages if stage.state and stage.state.error]
    since = _unreadable_since(errors) if errors else {}
    for stage in stages:
        if not stage.state or not stage.state.error:
            continue
        test = reverse("connection-test", args=[stage.environment.pk])
        yield Need(
            Concern.UNREADABLE,
            stage.environment,
            _("The database cannot be read."),
            Act(_("Test connection"), test)
            if can(user, "settings.edit", stage.environment)
            else view_environment(stage),
            since[stage.state.pk],
            stage.state.error,
            is_recorded=True,
        )


def _unreadable_since(states: list[TargetState]) -> dict[int, datetime]:
    """When each of these readings, which failed, was the first to fail without a break."""
    own = TargetState.objects.filter(target=OuterRef("target"))
    good = own.filter(error="").order_by("-observed_at")
    bad = own.filter(observed_at__gt=OuterRef("last_good")).order_by("observed_at")
    found = (
        TargetState.objects.filter(pk__in=[state.pk for state in states])
        .annotate(last_good=Coalesce(Subquery(good.values("observed_at")[:1]), EPOCH))
        .annotate(since=Coalesce(Subquery(bad.values("observed_at")[:1]), F("observed_at")))
    )
    return dict(found.order_by().values_list("pk", "since"))


def _unchecked(user: User, stages: list[Stage]) -> Iterable[Need]:
    """Environments without a health check, for who may add one."""
    checked = set(
        HealthCheck.objects.filter(
            environment__in=[stage.environment for stage in stages], is_enabled=True
        ).values_list("environment", flat=True)
    )
    for stage in stages:
        if stage.environment.pk in checked or not can(user, "settings.edit", stage.environment):
            continue
        yield Need(
            Concern.UNCHECKED,
            stage.environment,
            _("No health check is set."),
            Act(_("Add a health check"), reverse("health-check-add", args=[stage.environment.pk])),
            detail=_("The console cannot tell whether the application works."),
        )
