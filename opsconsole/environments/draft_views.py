"""Adding an environment: typed once, tried on a worker, then saved."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from opsconsole.access.http import ConsoleRequest
from opsconsole.access.permissions import require
from opsconsole.environments import drafts
from opsconsole.environments import services as environments
from opsconsole.environments.forms import NewEnvironmentForm
from opsconsole.environments.lookup import application_or_404, draft_or_404
from opsconsole.environments.models import Draft, Environment, Target, TargetState
from opsconsole.environments.secrets import Sealed
from opsconsole.environments.verdicts import verdicts_of
from opsconsole.exceptions import Refused
from opsconsole.web.errors import status_of
from opsconsole.web.forms import Given, act_on, add_refusal
from opsconsole.web.polling import polled


@require("settings.edit")
def add_environment(request: ConsoleRequest, application_id: int) -> HttpResponse:
    application = application_or_404(request, application_id, "settings.edit")
    draft = Draft(application=application)
    form = NewEnvironmentForm(request.POST or None, draft=draft)
    if form.is_bound and not form.is_valid() and form.has_typed_an_address:
        return _kept(request, form)

    def act(_given: Given) -> HttpResponse:
        return _try(request, form)

    return act_on(request, form, act, title=_title(draft), back="settings", submit=_("Test it"))


def _title(draft: Draft) -> str:
    return _("Add an environment of %(application)s") % {"application": draft.application}


@require("settings.edit")
@polled
def edit_draft(request: ConsoleRequest, pk: int) -> HttpResponse:
    """What a worker found, and the form below it: changed, it is tried again."""
    draft = draft_or_404(request, pk, of_application=False)
    form = NewEnvironmentForm(request.POST or draft.given, draft=draft)
    if request.method != "POST":
        return _shown(request, draft, form)
    if not form.is_valid():
        return _kept(request, form)
    try:
        return _try(request, form)
    except Refused as refusal:
        return _shown(request, draft, form, status=add_refusal(form, refusal))


def _try(request: ConsoleRequest, form: NewEnvironmentForm) -> HttpResponse:
    kept = drafts.keep_draft(
        actor=request.user, draft=form.draft, given=form.typed, secrets=form.secrets
    )
    return redirect(kept)


def _kept(request: ConsoleRequest, form: NewEnvironmentForm) -> HttpResponse:
    """The page of a form that is wrong, with its addresses kept: it does not show them again."""
    status = 422
    if form.has_typed_an_address:
        try:
            drafts.keep_typed(
                actor=request.user, draft=form.draft, given=form.typed, secrets=form.secrets
            )
        except Refused as refusal:
            status = add_refusal(form, refusal)
        else:
            form = NewEnvironmentForm(request.POST, draft=form.draft)
    return _shown(request, form.draft, form, status)


def _shown(
    request: ConsoleRequest, draft: Draft, form: NewEnvironmentForm, status: int = 200
) -> HttpResponse:
    waiting = drafts.pending_try(draft)
    state = _as_state(draft)
    verdicts = verdicts_of(state.target, state) if state else []
    context: dict[str, Any] = {
        "title": _title(draft),
        "draft": draft,
        "form": form,
        "state": state,
        "waiting": waiting,
        "verdicts": verdicts,
        "will_work": bool(verdicts) and verdicts[0].tone != "bad",
    }
    template = "_connection_test" if request.htmx else "draft_page"
    return render(request, f"opsconsole/{template}.html", context, status=status)


def _as_state(draft: Draft) -> TargetState | None:
    """What was found, as the state of the target that it may become; None until it was tried."""
    if draft.tried_at is None:
        return None
    target = Target(environment=Environment(application=draft.application))
    return TargetState(
        target=target, data=draft.found, error=draft.error, observed_at=draft.tried_at
    )


@require_POST
@require("settings.edit")
def save_draft(request: ConsoleRequest, pk: int) -> HttpResponse:
    draft = draft_or_404(request, pk, of_application=False)
    form = NewEnvironmentForm(draft.given, draft=draft)
    if not form.is_valid():
        return _shown(request, draft, form, status=422)
    sealed = {name: Sealed(text) for name, text in draft.sealed.items()}
    try:
        environment = environments.add_from_draft(
            actor=request.user,
            draft=draft,
            target=Target(environment=form.instance),
            address=form.cleaned_data["address"] or sealed["address"],
            scratch_address=form.new_address("scratch") or sealed.get("scratch_address"),
            quarantine_address=form.new_address("quarantine") or sealed.get("quarantine_address"),
        )
    except Refused as refusal:
        add_refusal(form, refusal)
        return _shown(request, draft, form, status=status_of(refusal))
    messages.success(request, _("%(environment)s is added.") % {"environment": environment.name})
    return redirect(environment)


@require_POST
@require("settings.edit")
def discard_draft(request: ConsoleRequest, pk: int) -> HttpResponse:
    draft = draft_or_404(request, pk)
    drafts.discard_draft(actor=request.user, draft=draft)
    messages.success(request, _("Discarded, and what was typed with it."))
    return redirect("settings")
