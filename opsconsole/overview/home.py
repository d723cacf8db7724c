"""The dashboard, and the search."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from django.db.models import Q
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET

from opsconsole.access.http import ConsoleRequest
from opsconsole.access.models import User
from opsconsole.access.permissions import require
from opsconsole.environments.models import Application, Target, TargetState
from opsconsole.environments.visibility import visible_environments, visible_targets
from opsconsole.health.services import health_days
from opsconsole.overview.forms import FindForm
from opsconsole.overview.needs import needs_of
from opsconsole.overview.panels import (
    CHANGES,
    ENVIRONMENT_FACTS,
    FINDERS,
    Act,
    Fact,
    Found,
    Stage,
)
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
class Card:
    """One stage as it is shown: with its facts, and the change that the viewer may start."""

    stage: Stage
    facts: list[Fact]
    change: Act | None
    is_next: bool = False


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
    user = request.user
    stages = stages_of(list(visible_targets(user)))
    context = {
        "applications": applications_of(user, stages),
        "needs": needs_of(user, stages),
        "late": late_rows(user),
        "workers": Worker.objects.alive().count(),
    }
    template = "opsconsole/_home.html" if request.htmx else "opsconsole/home.html"
    return render(request, template, context)


def stages_of(targets: list[Target]) -> list[Stage]:
    """What is known of the targets, with a number of queries that does not grow."""
    days = health_days([target.environment for target in targets])
    states = {
        s.target_id: s
        for s in TargetState.objects.filter(target__in=targets)
        .order_by("target_id", "-observed_at")
        .distinct("target_id")
    }
    changes = {r.target_id: r for r in Run.objects.filter(changes_target=True).newest_of(targets)}
    runs = list(
        Run.objects.filter(target__in=targets)
        .filter(
            Q(status=RunStatus.NEEDS_ATTENTION)
            | Q(changes_target=True, status__in=RunStatus.active())
        )
        .select_related("environment")
        .order_by("id")
    )
    holders = {r.target_id: r for r in runs if r.state is RunStatus.NEEDS_ATTENTION}
    moving = {r.target_id: r for r in runs if r.state is not RunStatus.NEEDS_ATTENTION}
    return [
        Stage(
            target=target,
            environment=target.environment,
            state=states.get(target.pk),
            day=days[target.environment_id],
            change=changes.get(target.pk),
            holder=holders.get(target.pk),
            moving=moving.get(target.pk),
        )
        for target in targets
    ]


def applications_of(user: User, stages: list[Stage]) -> list[tuple[Application, list[Card]]]:
    """Each application with its path, in order; the first change of a path is the next one."""
    targets = [stage.target for stage in stages]
    facts = [source(targets) for source in ENVIRONMENT_FACTS]
    changes = {pk: act for source in CHANGES for pk, act in source(user, stages).items()}
    cards = [
        Card(
            stage=stage,
            facts=[found[stage.target.pk] for found in facts if stage.target.pk in found],
            change=changes.get(stage.target.pk),
        )
        for stage in stages
    ]
    found = [
        (application, list(path))
        for application, path in groupby(cards, key=lambda c: c.stage.environment.application)
    ]
    for _application, path in found:
        first = next((card for card in path if card.change), None)
        if first:
            first.is_next = True
    return found


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
