"""Schema change in the browser: read a migration, confirm a plan, clear a failed one."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import Http404, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from migrations_app.forms import EndSessionForm, MigrateForm, ResolveForm
from migrations_app.models import ScriptText
from migrations_app.parameters import MigrateParameters
from migrations_app.reading.matrix import read_board
from migrations_app.reading.readings import reading_of
from migrations_app.services import doctor
from migrations_app.services import migrations as services
from migrations_app.services.findings import as_shown
from opsconsole.access.http import ConsoleRequest
from opsconsole.access.permissions import require
from opsconsole.environments.lookup import require_sudo_if_protected, target_or_404
from opsconsole.environments.models import Target, TargetState
from opsconsole.environments.visibility import visible_targets
from opsconsole.exceptions import Refused
from opsconsole.runs.gates import judge
from opsconsole.runs.models import Run
from opsconsole.runs.registry import outlook
from opsconsole.web.downloads import attachment
from opsconsole.web.forms import Given, act_on, add_refusal
from opsconsole.web.pages import new_key
from opsconsole.web.polling import polled


def _with_waivers(migration: dict[str, Any]) -> dict[str, Any]:
    """The rules that can still be waived, and each waiver once."""
    return migration | {
        "open_rules": sorted({f.rule for f in migration["open_findings"]}),
        "waivers": list(
            {f.waiver.pk: f.waiver for f in migration["findings"] if f.waiver}.values()
        ),
    }


@require("run.start")
@polled
def confirm(request: ConsoleRequest, application: str, environment: str) -> HttpResponse:
    """What will happen, step by step. Reads the database anew first; posts the plan's hash."""
    found = target_or_404(request, application, environment, "run.start")
    if request.method == "POST":
        return _start(request, found)
    state = found.latest_state
    if state is None or not state.is_fresh(settings.STATE_FRESH_SECONDS):
        # Asked once by the page, then every second by its fragment until the answer is there.
        if not request.htmx:
            services.request_observation(found)
        template = "_migrate_reading" if request.htmx else "migrate_confirm"
        return render(
            request, f"migrations_app/{template}.html", {"environment": found.environment}
        )
    return _confirm_page(request, found, state, MigrateForm(environment=found.environment))


def _confirm_page(
    request: ConsoleRequest,
    target: Target,
    state: TargetState | None,
    form: MigrateForm,
    refusal: str = "",
    status: int = 200,
) -> HttpResponse:
    context: dict[str, Any] = {
        "environment": target.environment,
        "state": state,
        "refusal": refusal,
        "gates": judge(services.plan_gates(target), timezone.now()),
    }
    try:
        plan, state = services.current_plan(target)
    except Refused:
        # Why is among the gates.
        context["blocked"] = True
    else:
        reading = reading_of(state)
        pending = [m for m in reading.migrations if m.name in plan.names]
        context |= {
            "plan": plan,
            "state": state,
            "reading": reading,
            "migrations": as_shown(target.environment, pending),
            "form": form,
            "checklist": [
                {"item": item, **form.line(item.key)}
                for item in services.checklist_for(target, plan.names)
            ],
            "outlook": outlook(MigrateParameters(), target),
        }
    is_fragment = request.method == "GET" and request.htmx
    template = "_migrate_form" if is_fragment else "migrate_confirm"
    return render(request, f"migrations_app/{template}.html", context, status=status)


def _start(request: ConsoleRequest, target: Target) -> HttpResponse:
    require_sudo_if_protected(request, target.environment)
    state = target.latest_state
    form = MigrateForm(request.POST, environment=target.environment)
    plan_names = state.pending if state and not state.error else []
    if form.is_valid() and target.environment.is_protected:
        lines = services.checklist_for(target, plan_names)
        form.ask(line.key for line in lines if not line.is_known)
    if not form.is_valid():
        return _confirm_page(request, target, state, form, status=422)
    given = form.cleaned_data
    try:
        run = services.request_migrate(
            actor=request.user,
            target=target,
            plan_hash=given["plan"],
            idempotency_key=given["key"],
            reason=given["reason"],
            typed_name=given["typed_name"],
            checklist=services.complete_checklist(target, plan_names, form.ticked),
        )
    except Refused as refusal:
        if state is None or state.error:
            raise
        status = add_refusal(form, refusal)
        return _confirm_page(request, target, state, form, str(refusal), status)
    return redirect(run)


@require_POST
@require("console.view")
def read_now(request: ConsoleRequest, application: str, environment: str) -> HttpResponse:
    found = target_or_404(request, application, environment, "console.view")
    services.request_observation(found)
    messages.success(request, _("A worker is reading the database now."))
    return redirect(found.environment)


@require_GET
@require("console.view")
def migration_page(
    request: ConsoleRequest, application: str, environment: str, name: str
) -> HttpResponse:
    found = target_or_404(request, application, environment, "console.view")
    state = found.latest_state
    reading = reading_of(state)
    migration = next((m for m in reading.migrations if m.name == name), None)
    if migration is None:
        raise Http404
    shared = found.environment.application
    targets = list(visible_targets(request.user).filter(environment__application=shared))
    board = read_board(targets, text=name)
    context = {
        "environment": found.environment,
        "state": state,
        "reading": reading,
        "migration": _with_waivers(as_shown(found.environment, [migration])[0]),
        "diagnoses": [d for d in doctor.diagnose(found, state) if d.name == name],
        "runs": Run.objects.for_list().filter(
            target__in=targets,
            result__applied__contains=[name],
        ),
        "standing": next(
            (
                list(zip(board.columns, row.cells, strict=True))
                for row in board.rows
                if row.name == name
            ),
            [],
        ),
        "key": new_key(),
    }
    return render(request, "migrations_app/migration_page.html", context)


@require_GET
@require("console.view")
def applied_text(
    request: ConsoleRequest, application: str, environment: str, name: str
) -> HttpResponseBase:
    """The text of an applied migration, as this console saw it, to put back into the folder."""
    found = target_or_404(request, application, environment, "console.view")
    rows = reading_of(found.latest_state).migrations
    checksum = next((m.applied_checksum for m in rows if m.name == name), "")
    text = get_object_or_404(ScriptText, pk=checksum)
    return attachment(
        text.sql, actor=request.user, name=f"{name}.sql", environment=found.environment
    )


@require_POST
@require("migration.resolve")
def end_session(request: ConsoleRequest, application: str, environment: str) -> HttpResponse:
    found = target_or_404(request, application, environment, "migration.resolve")
    require_sudo_if_protected(request, found.environment)

    def act(given: Given) -> HttpResponse:
        run = doctor.request_end_session(
            actor=request.user,
            target=found,
            pid=given["pid"],
            reason=given["reason"],
            idempotency_key=given["key"],
        )
        return redirect(run)

    form = EndSessionForm(request.POST)
    return act_on(request, form, act, title=_("End this session"), back=found.environment)


@require_POST
@require("migration.resolve")
def resolve(request: ConsoleRequest, application: str, environment: str, name: str) -> HttpResponse:
    found = target_or_404(request, application, environment, "migration.resolve")
    require_sudo_if_protected(request, found.environment)

    def act(given: Given) -> HttpResponse:
        run = doctor.request_resolution(
            actor=request.user,
            target=found,
            name=name,
            mark=given["mark"],
            reason=given["reason"],
            idempotency_key=given["key"],
        )
        return redirect(run)

    return act_on(
        request, ResolveForm(request.POST), act, title=_("Settle"), back=found.environment
    )
