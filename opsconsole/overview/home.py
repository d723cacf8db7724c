"""The dashboard, and the search."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
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
from opsconsole.overview.first_steps import begun
from opsconsole.overview.forms import FindForm
from opsconsole.overview.lately import coming_in, ended_runs, going_on, moving_runs, placed
from opsconsole.overview.needs import needs_of
from opsconsole.overview.panels import (
    CHANGES,
    ENVIRONMENT_FACTS,
    FINDERS,
    Act,
    Coming,
    Fact,
    Found,
    Stage,
)
from opsconsole.overview.settings import people_for
from opsconsole.overview.standing import Standing, standing_of
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.models import Run
from opsconsole.runs.workers import Worker
from opsconsole.web.keys import key_from
from opsconsole.web.polling import polled
from opsconsole.work.models import WorkItem
from opsconsole.work.registry import WORK
from opsconsole.work.services import late_work, work_of

MOST_LATE = 20
# From so many environments on, each is a row of a table and no card.
MANY = 6
MOST_COMING = 8


@dataclass
class Card:
    """One stage as it is shown: with its facts, the change that the viewer may start, and what the
    console does there next by itself."""

    stage: Stage
    facts: list[Fact]
    change: Act | None
    coming: Coming | None
    is_next: bool = False

    @property
    def standing(self) -> Standing:
        return standing_of(self.stage)


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
    targets = list(visible_targets(user))
    runs = going_on(targets)
    stages = stages_of(targets, runs)
    coming = coming_in(targets)
    applications = applications_of(user, stages, coming)
    cards = [card for _application, path in applications for card in path]
    context = {
        "applications": applications,
        "cards": cards if len(cards) >= MANY else [],
        "labels": list(dict.fromkeys(fact.label for card in cards for fact in card.facts)),
        "begun": begun(user),
        "needs": needs_of(user, stages),
        "moving": moving_runs(runs),
        "ended": ended_runs(targets),
        "coming": coming[:MOST_COMING],
        "late": late_rows(user),
        "workers": Worker.objects.alive().count(),
    }
    template = "opsconsole/_home.html" if request.htmx else "opsconsole/home.html"
    return render(request, template, context)


def stages_of(targets: list[Target], runs: list[Run]) -> list[Stage]:
    """What is known of the targets, with a number of queries that does not grow.

    `runs` are those of them that have not ended, the newest first.
    """
    days = health_days([target.environment for target in targets])
    states = {
        s.target_id: s
        for s in TargetState.objects.filter(target__in=targets)
        .order_by("target_id", "-observed_at")
        .distinct("target_id")
    }
    newest = Run.objects.filter(changes_target=True).newest_of(targets)
    changes = {r.target_id: r for r in placed(newest, targets)}
    holders = {r.target_id: r for r in reversed(runs) if r.state is RunStatus.NEEDS_ATTENTION}
    moving = {
        r.target_id: r for r in reversed(runs) if r.changes_target and r.state in RunStatus.active()
    }
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


def applications_of(
    user: User, stages: list[Stage], coming: list[Coming]
) -> list[tuple[Application, list[Card]]]:
    """Each application with its path, in order."""
    soonest = {each.environment.pk: each for each in reversed(coming)}
    targets = [stage.target for stage in stages]
    facts = [source(targets) for source in ENVIRONMENT_FACTS]
    changes = {pk: act for source in CHANGES for pk, act in source(user, stages).items()}
    cards = [
        Card(
            stage=stage,
            facts=[found[stage.target.pk] for found in facts if stage.target.pk in found],
            change=changes.get(stage.target.pk),
            coming=soonest.get(stage.environment.pk),
        )
        for stage in stages
    ]
    found = [
        (application, list(path))
        for application, path in groupby(cards, key=lambda c: c.stage.environment.application)
    ]
    for _application, path in found:
        _mark_next(path)
    return found


def _mark_next(path: list[Card]) -> None:
    """The first change of a path, unless a stage before it is not settled: then none is urged."""
    for card in path:
        if card.change:
            card.is_next = True
        if card.change or not card.stage.is_settled:
            return


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
    if Run.objects.filter(pk=key_from(text), target__in=visible_targets(request.user)).exists():
        return redirect("run", key_from(text))
    found = _answers(request.user, text) if text else []
    exact = [one for one in found if one.is_exact]
    if len(exact) == 1:
        return redirect(exact[0].url)
    context = {"form": form, "text": text, "found": found}
    status = 200 if form.is_valid() else 422
    return render(request, "opsconsole/find.html", context, status=status)


def _answers(user: User, text: str) -> list[Found]:
    """What the text names; where that is nothing, what its rest names of the kind of its first
    word: `run 6`, `backup 4`, `migration index`."""
    finders = [_find_environments, _find_runs, _find_people, *FINDERS]
    if found := [one for finder in finders for one in finder(user, text)]:
        return found
    kind, _space, rest = text.partition(" ")
    if not rest.strip():
        return []
    found = [one for finder in finders for one in finder(user, rest.strip())]
    return [one for one in found if one.kind.casefold() == kind.casefold()]


def _find_environments(user: User, text: str) -> list[Found]:
    return [
        Found(
            _("Environment"),
            str(each),
            each.get_absolute_url(),
            "layout-dashboard",
            is_exact=text.casefold() == str(each).casefold(),
        )
        for each in visible_environments(user)
        if text.casefold() in str(each).casefold()
    ]


def _find_runs(user: User, text: str) -> list[Found]:
    """The run with that number."""
    runs = Run.objects.filter(pk=key_from(text), target__in=visible_targets(user))
    return [
        Found(_("Run"), f"{run}: {run.title}", run.get_absolute_url(), "history", is_exact=True)
        for run in runs.select_related("environment")
    ]


def _find_people(user: User, text: str) -> list[Found]:
    """Those whom the user finds on the settings page too."""
    return [
        Found(_("Person"), person.username, f"{reverse('settings')}#people", "user")
        for person in people_for(user).filter(username__icontains=text)[:10]
    ]
