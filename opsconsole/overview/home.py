"""The dashboard, and the search."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET

from opsconsole.access.http import ConsoleRequest
from opsconsole.access.models import User
from opsconsole.access.permissions import require
from opsconsole.environments.models import Environment, Target, TargetState
from opsconsole.environments.visibility import visible_environments, visible_targets
from opsconsole.health.services import HealthDay, health_days
from opsconsole.overview.forms import FindForm
from opsconsole.overview.panels import ENVIRONMENT_FACTS, FINDERS, Fact, Found
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.models import Run
from opsconsole.runs.workers import Worker
from opsconsole.web.keys import key_from
from opsconsole.web.polling import polled
from opsconsole.work.models import WorkItem
from opsconsole.work.registry import WORK
from opsconsole.work.services import late_work, work_of

MOST_LATE = 20


@dataclass
class Stage:
    """One target on the dashboard, as its environment."""

    environment: Environment
    state: TargetState | None
    day: HealthDay
    last_run: Run | None
    holder: Run | None
    facts: list[Fact]


@dataclass
class Late:
    """One item of the work list that somebody should know of."""

    item: WorkItem
    title: str | Promise
    is_known: bool
    waits_for_its_next_try: bool
    may_retry: bool


@require_GET
@require("console.view")
@polled
def home(request: ConsoleRequest) -> HttpResponse:
    stages = stages_of(list(visible_targets(request.user)))
    applications = [
        (application, list(group))
        for application, group in groupby(stages, key=lambda s: s.environment.application)
    ]
    context = {
        "applications": applications,
        "todo": [stage for stage in stages if _needs_somebody(stage)],
        "late": late_rows(request.user),
        "workers": Worker.objects.alive().count(),
    }
    template = "opsconsole/_home.html" if request.htmx else "opsconsole/home.html"
    return render(request, template, context)


def stages_of(targets: list[Target]) -> list[Stage]:
    """Everything the dashboard shows, with a number of queries that does not grow."""
    environments = [target.environment for target in targets]
    days = health_days(environments)
    states = {
        s.target_id: s
        for s in TargetState.objects.filter(target__in=targets)
        .order_by("target_id", "-observed_at")
        .distinct("target_id")
    }
    last = {r.target_id: r for r in Run.objects.newest_of(targets)}
    holders = {
        r.target_id: r
        for r in Run.objects.filter(
            target__in=targets, status=RunStatus.NEEDS_ATTENTION
        ).select_related("environment")
    }
    facts = [source(targets) for source in ENVIRONMENT_FACTS]
    return [
        Stage(
            environment=target.environment,
            state=states.get(target.pk),
            day=days[target.environment_id],
            last_run=last.get(target.pk),
            holder=holders.get(target.pk),
            facts=[found[target.pk] for found in facts if target.pk in found],
        )
        for target in targets
    ]


def late_rows(user: User) -> list[Late]:
    """The oldest of what is late, as far as the user may see it."""
    now = timezone.now()
    items = list(late_work(user)[:MOST_LATE])
    retryable = set(work_of(user, "work.retry").filter(pk__in=[i.pk for i in items]))
    return [
        Late(
            item=item,
            title=WORK[item.work].title if item.work in WORK else item.work,
            is_known=item.work in WORK,
            waits_for_its_next_try=item.due_at > now,
            may_retry=item in retryable and item.work in WORK,
        )
        for item in items
    ]


def _needs_somebody(stage: Stage) -> bool:
    return bool(stage.holder or (stage.state and (stage.state.error or stage.state.troubled)))


@require_GET
@require("console.view")
def find(request: ConsoleRequest) -> HttpResponse:
    form = FindForm(request.GET or {})
    text = form.cleaned_data["q"] if form.is_valid() else ""
    environments = visible_environments(request.user)
    if Run.objects.filter(pk=key_from(text), environment__in=environments).exists():
        return redirect("run", key_from(text))
    found: list[Found] = []
    if text:
        found = [
            Found(_("Environment"), str(e), e.get_absolute_url(), "layout-dashboard")
            for e in environments
            if text.lower() in str(e).lower()
        ]
        for finder in FINDERS:
            found += finder(request.user, text)
    context = {"form": form, "text": text, "found": found}
    status = 200 if form.is_valid() else 422
    return render(request, "opsconsole/find.html", context, status=status)
