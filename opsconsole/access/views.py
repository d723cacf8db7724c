"""People, their roles, and every person's own preferences."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from opsconsole.access import people, sessions
from opsconsole.access.forms import MembershipForm, PersonForm, PreferencesForm
from opsconsole.access.http import ConsoleRequest
from opsconsole.access.models import OpenSession, User
from opsconsole.access.permissions import (
    memberships_for,
    require,
    require_on_console,
)
from opsconsole.access.sudo import require_sudo
from opsconsole.web.forms import Given, act_on, form_page


@require_on_console("settings.edit")
def add_person(request: ConsoleRequest) -> HttpResponse:
    form = PersonForm(request.POST or None)

    def act(given: Given) -> HttpResponse:
        user = form.save(commit=False)
        people.add_person(actor=request.user, user=user, role=given["role"])
        return _password_link(request, user)

    return act_on(request, form, act, title=_("Add a person"), back="settings", submit=_("Add"))


@require("settings.edit")
def grant_role(request: ConsoleRequest) -> HttpResponse:
    actor: Any = request.user
    form = MembershipForm(request.POST or None, initial=request.GET.dict(), actor=actor)
    if request.method == "POST" and form.is_valid():
        people.grant_role(actor=actor, membership=form.instance)
        messages.success(request, _("Saved."))
        return redirect("settings")
    return form_page(request, form, _("Assign a role"), "settings")


@require_POST
@require_on_console("settings.edit")
def let_in(request: ConsoleRequest, pk: int) -> HttpResponse:
    user = get_object_or_404(User, pk=pk)
    people.let_in(actor=request.user, user=user)
    messages.success(request, _("%(user)s can sign in now.") % {"user": user})
    return redirect("settings")


@require_POST
@require("settings.edit")
def revoke_role(request: ConsoleRequest, pk: int) -> HttpResponse:
    actor: Any = request.user
    membership = get_object_or_404(memberships_for(actor, "settings.edit"), pk=pk)
    people.revoke_role(actor=actor, membership=membership)
    messages.success(request, _("Done."))
    return redirect("settings")


@require_POST
@require_on_console("settings.edit")
def lock_out(request: ConsoleRequest, pk: int) -> HttpResponse:
    user = get_object_or_404(User, pk=pk)
    people.lock_out(actor=request.user, user=user)
    messages.success(request, _("Done."))
    return redirect("settings")


@require_POST
@require_on_console("settings.edit")
def take_factors(request: ConsoleRequest, pk: int) -> HttpResponse:
    user = get_object_or_404(User, pk=pk)
    people.take_factors(actor=request.user, user=user)
    messages.success(request, _("%(user)s signs in with the password alone now.") % {"user": user})
    return redirect("settings")


@require_POST
@require_on_console("settings.edit")
def make_password_link(request: ConsoleRequest, pk: int) -> HttpResponse:
    return _password_link(request, get_object_or_404(User, pk=pk))


def _password_link(request: ConsoleRequest, user: User) -> HttpResponse:
    """The link is on this one answer, and nowhere else."""
    path = people.make_password_link(actor=request.user, user=user)
    link = request.build_absolute_uri(path)
    return render(request, "opsconsole/password_link_made.html", {"person": user, "link": link})


@require_GET
def own_sessions(request: ConsoleRequest) -> HttpResponse:
    """Where the person is signed in."""
    return _sessions(request, request.user)


@require_POST
def end_own(request: ConsoleRequest, pk: int) -> HttpResponse:
    session = get_object_or_404(OpenSession, pk=pk, user=request.user)
    require_sudo(request)
    sessions.end_session(actor=request.user, session=session)
    messages.success(request, _("The session has ended."))
    return redirect("sessions")


@require_POST
def end_others(request: ConsoleRequest) -> HttpResponse:
    require_sudo(request)
    own = str(request.session.session_key)
    sessions.end_sessions(actor=request.user, user=request.user, but=own)
    messages.success(request, _("Your other sessions have ended."))
    return redirect("sessions")


@require_GET
@require_on_console("settings.edit")
def sessions_of(request: ConsoleRequest, pk: int) -> HttpResponse:
    """Where somebody is signed in, for an admin."""
    return _sessions(request, get_object_or_404(User, pk=pk))


@require_POST
@require_on_console("settings.edit")
def end_all_of(request: ConsoleRequest, pk: int) -> HttpResponse:
    user = get_object_or_404(User, pk=pk)
    own = str(request.session.session_key)
    sessions.end_sessions(actor=request.user, user=user, but=own)
    messages.success(request, _("The sessions of %(user)s have ended.") % {"user": user})
    return redirect("person-sessions", user.pk)


def _sessions(request: ConsoleRequest, person: User) -> HttpResponse:
    context = {"person": person, "sessions": sessions.open_sessions(person)}
    return render(request, "opsconsole/sessions.html", context)


def preferences(request: ConsoleRequest) -> HttpResponse:
    """Every person's own look and time zone."""
    form = PreferencesForm(request.POST or None, instance=request.user)
    if request.method == "POST" and form.is_valid():
        form.save()
        messages.success(request, _("Saved."))
        return redirect("preferences")
    template = "opsconsole/preferences.html"
    return form_page(request, form, _("Preferences"), "home", template=template)
