"""Runs: the list, the page of one, its live parts, and what can be done with it."""

from __future__ import annotations

from itertools import islice

from django.contrib import messages
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST
from django_htmx.http import trigger_client_event

from opsconsole.access.http import ConsoleRequest
from opsconsole.access.permissions import can, require
from opsconsole.environments.visibility import visible_environments
from opsconsole.events.models import AuditEvent
from opsconsole.runs import services as runs
from opsconsole.runs.choices import RunStatus, StepStatus
from opsconsole.runs.forms import ENDS, CancelForm, DecideForm, RunFilterForm
from opsconsole.runs.log_by_step import stretches_of
from opsconsole.runs.lookup import run_or_404
from opsconsole.runs.models import Run, Step
from opsconsole.runs.outcome import ended_outcome, moving_outcome, usual_seconds
from opsconsole.runs.panels import NEXT_ACTS, RUN_CHOICES, RUN_PANELS, NextAct
from opsconsole.runs.registry import steps_to_come
from opsconsole.runs.run_timeline import timeline_of
from opsconsole.web.downloads import attachment
from opsconsole.web.forms import Given, act_on
from opsconsole.web.keys import key_from
from opsconsole.web.pages import new_key, stretch_of
from opsconsole.web.polling import polled

LINES_AT_ONCE = 2000


@require_GET
@require("console.view")
def run_list(request: ConsoleRequest) -> HttpResponse:
    form = RunFilterForm(request.GET or {}, user=request.user)
    rows = Run.objects.none()
    if form.is_valid():
        chosen = {name: value for name, value in form.cleaned_data.items() if value}
        rows = Run.objects.for_list().filter(
            environment__in=visible_environments(request.user), **chosen
        )
    context = {"page": stretch_of(request, rows), "form": form}
    status = 200 if form.is_valid() else 422
    return render(request, "opsconsole/run_list.html", context, status=status)


@require_GET
@require("console.view")
def run_page(request: ConsoleRequest, run_id: int) -> HttpResponse:
    run = run_or_404(request, run_id, "console.view")
    log = _log_context(run, after=0)
    steps = list(run.steps.all())
    context = _status_context(run, steps) | _rest_context(request, run, steps) | log
    # Of a run that is over, only what did not succeed is open; nothing is folded while one looks.
    context["folded"] = "" if run.state.is_moving else StepStatus.SUCCEEDED
    return render(request, "opsconsole/run_page.html", context)


@require_GET
@require("console.view")
@polled
def run_status(request: ConsoleRequest, run_id: int) -> HttpResponse:
    """The moving part of the page; once the run is over it asks no more, and the rest asks once."""
    run = run_or_404(request, run_id, "console.view")
    context = _status_context(run, list(run.steps.all()))
    response = render(request, "opsconsole/_run_status.html", context)
    return response if run.state.is_moving else trigger_client_event(response, "run-over")


@require_GET
@require("console.view")
@polled
def run_rest(request: ConsoleRequest, run_id: int) -> HttpResponse:
    """What came of the run so far: seldom new while it moves, so it is asked for less often."""
    run = run_or_404(request, run_id, "console.view")
    context = _rest_context(request, run, list(run.steps.all()))
    return render(request, "opsconsole/_run_rest.html", context)


def _status_context(run: Run, steps: list[Step]) -> dict[str, object]:
    if run.state is RunStatus.QUEUED and not steps:
        # As its worker will write them down.
        names = enumerate(steps_to_come(run))
        steps = [Step(run=run, position=place, name=name) for place, name in names]
    context: dict[str, object] = {"run": run, "environment": run.environment, "steps": steps}
    if run.state.is_moving:
        context |= {"outcome": moving_outcome(run, steps), "usual": usual_seconds(run)}
    return context


def _rest_context(request: ConsoleRequest, run: Run, steps: list[Step]) -> dict[str, object]:
    health = list(run.health_results.order_by("observed_at"))
    context: dict[str, object] = {
        "run": run,
        "environment": run.environment,
        "health": health,
        "availability": run.result.get("availability"),
        "audit": AuditEvent.objects.matching().filter(run=run).order_by("id"),
        "key": new_key(),
        "ends": ENDS,
        "panels": [part(request, run) for part in RUN_PANELS],
    }
    timeline, text = timeline_of(run, steps, health, usual_seconds(run))
    context |= {"timeline": timeline, "timeline_text": text}
    if not run.state.is_moving:
        context["outcome"] = ended_outcome(run, steps, health, _next_acts(request, run))
    if _is_undecided(run):
        context["choices"] = [part(request, run) for part in RUN_CHOICES]
    return context


def _is_undecided(run: Run) -> bool:
    return run.state is RunStatus.NEEDS_ATTENTION and not run.way_back_id


def _next_acts(request: ConsoleRequest, run: Run) -> list[NextAct]:
    if run.state.is_terminal:
        return [act for offered in NEXT_ACTS for act in offered(request, run)]
    if _is_undecided(run) and can(request.user, "run.decide", run.environment):
        return [NextAct(_("Decide"), "#decision", is_first=True)]
    return []


@require_GET
@require("console.view")
@polled
def run_log_tail(request: ConsoleRequest, run_id: int) -> HttpResponse:
    """New lines and a new sentinel; 204 when nothing is new; no sentinel when it is over."""
    run = run_or_404(request, run_id, "console.view")
    after = key_from(request.GET.get("after", ""))
    context = _log_context(run, after=after)
    if not context["log"] and run.state.is_moving:
        return HttpResponse(status=204)
    return render(request, "opsconsole/_run_log_lines.html", context)


def _log_context(run: Run, *, after: int) -> dict[str, object]:
    # The lines first: a step has begun before its first line is kept.
    lines = list(islice(run.log_chunks.read_lines(after=after), LINES_AT_ONCE))
    log = stretches_of(lines, run.steps.all()) if lines else []
    last = lines[-1].number if lines else after
    has_more = run.log_seq > last
    deleted = run.told_of_deleted_log() if has_more and not lines else ""
    return {"run": run, "log": log, "after": last, "has_more": has_more, "deleted": deleted}


@require_GET
@require("console.view")
def run_log_download(request: ConsoleRequest, run_id: int) -> HttpResponseBase:
    """The whole log as text, one line each with its UTC time; that it was deleted where it was."""
    run = run_or_404(request, run_id, "console.view")
    deleted = run.told_of_deleted_log()
    body = (
        f"{line.moment.isoformat(timespec='milliseconds')} {line.text}\n"
        for line in run.log_chunks.read_lines()
    )
    return attachment(
        f"{deleted}\n" if deleted else body,
        actor=request.user,
        name=f"run-{run.pk}.log",
        environment=run.environment,
    )


@require_POST
@require("run.cancel")
def cancel(request: ConsoleRequest, run_id: int) -> HttpResponse:
    run = run_or_404(request, run_id, "run.cancel")
    sent = CancelForm(request.POST)
    is_sure = not run.environment.is_protected or (sent.is_valid() and sent.cleaned_data["sure"])

    def act(given: Given) -> HttpResponse:
        runs.request_cancel(actor=request.user, run=run, reason=given["reason"])
        messages.success(request, _("Asked the run to stop."))
        return redirect(run)

    return act_on(
        request,
        sent if is_sure else CancelForm(),
        act,
        title=_("Cancel %(run)s: %(title)s") % {"run": str(run).lower(), "title": run.title},
        back=run,
        submit=_("Cancel run"),
    )


@require_POST
@require("run.decide")
def decide(request: ConsoleRequest, run_id: int) -> HttpResponse:
    run = run_or_404(request, run_id, "run.decide")

    def act(given: Given) -> HttpResponse:
        runs.decide_run(actor=request.user, run=run, status=given["status"], reason=given["reason"])
        messages.success(request, _("Decided. The environment is free again."))
        return redirect(run)

    return act_on(request, DecideForm(request.POST), act, title=_("Settle"), back=run)
