"""Adding an application: name its repository, see what was found in it, save it."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from migrations_app.forms import NewApplicationForm, SourceForm
from migrations_app.services.applications import add_application
from opsconsole.access.http import ConsoleRequest
from opsconsole.access.permissions import authorize, require
from opsconsole.access.places import CONSOLE
from opsconsole.environments import drafts
from opsconsole.environments.lookup import draft_or_404
from opsconsole.environments.models import Draft
from opsconsole.exceptions import Refused
from opsconsole.web.forms import Given, act_on, add_refusal
from opsconsole.web.polling import polled


@require("settings.edit")
def add(request: ConsoleRequest) -> HttpResponse:
    authorize(request.user, "settings.edit", CONSOLE)
    form = SourceForm(request.POST or None, draft=Draft())

    def act(_given: Given) -> HttpResponse:
        return _look(request, form)

    title = _("Add an application")
    return act_on(request, form, act, title=title, back="home", submit=_("Look for migrations"))


@require("settings.edit")
@polled
def source(request: ConsoleRequest, pk: int) -> HttpResponse:
    """What was found, with the name of the application, and below it what was looked into."""
    draft = draft_or_404(request, pk, of_application=True)
    form = SourceForm(request.POST or draft.given, draft=draft)
    if request.method == "POST" and form.is_valid():
        return _look(request, form)
    return _shown(request, draft, form, status=422 if request.method == "POST" else 200)


@require_POST
@require("settings.edit")
def save(request: ConsoleRequest, pk: int) -> HttpResponse:
    draft = draft_or_404(request, pk, of_application=True)
    form = NewApplicationForm(request.POST, draft=draft)
    status = 422
    if form.is_valid():
        try:
            added = add_application(
                actor=request.user, draft=draft, application=form.instance, found=form.chosen
            )
        except Refused as refusal:
            status = add_refusal(form, refusal)
        else:
            messages.success(
                request,
                _(
                    "%(application)s is added. Its first environment comes next: where is its database?"
                )
                % {"application": added},
            )
            return redirect("environment-add", added.pk)
    shown = SourceForm(draft.given, draft=draft)
    return _shown(request, draft, shown, application=form, status=status)


def _look(request: ConsoleRequest, form: SourceForm) -> HttpResponse:
    kept = drafts.keep_draft(
        actor=request.user, draft=form.draft, given=form.typed, secrets=form.secrets
    )
    return redirect(kept)


def _shown(
    request: ConsoleRequest,
    draft: Draft,
    form: SourceForm,
    application: NewApplicationForm | None = None,
    status: int = 200,
) -> HttpResponse:
    is_found = draft.tried_at is not None and not draft.error
    context: dict[str, Any] = {
        "title": _("Add an application"),
        "draft": draft,
        "form": form,
        "waiting": drafts.pending_try(draft),
        "application": application or (NewApplicationForm(draft=draft) if is_found else None),
    }
    template = "_source" if request.htmx else "source_page"
    return render(request, f"migrations_app/{template}.html", context, status=status)
