"""Settings: applications, environments, health checks, people. Only for admins of each place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.db.models import Prefetch
from django.forms import ModelForm
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from opsconsole.access import people
from opsconsole.access.models import CONSOLE, User
from opsconsole.access.permissions import (
    applications_for,
    authorize,
    can,
    environments_for,
    memberships_for,
    require,
    require_on_console,
    visible_environments,
)
from opsconsole.environments import services as environments
from opsconsole.environments.forms import (
    ApplicationForm,
    EnvironmentForm,
    HealthCheckForm,
    MembershipForm,
    PersonForm,
    PreferencesForm,
)
from opsconsole.environments.models import Application, Environment
from opsconsole.environments.panels import SETTINGS_PANELS
from opsconsole.events import recording as audit
from opsconsole.exceptions import Refused
from opsconsole.health.models import HealthCheck
from opsconsole.runs import services as runs
from opsconsole.runs.workers import Worker
from opsconsole.web.pages import application_or_404, environment_by_key_or_404


def _form_page(
    request: HttpRequest, form: Any, title: str, back: str, **context: Any
) -> HttpResponse:
    """A form on a page of its own; a refused one comes back with what was typed, as 422."""
    status = 422 if form.is_bound and not form.is_valid() else 200
    return render(
        request,
        "opsconsole/form_page.html",
        {"form": form, "title": title, "back": back, **context},
        status=status,
    )


def _values(form: ModelForm) -> dict[str, Any]:
    """What the record held before the form changed it."""
    if form.instance.pk is None:
        return {}
    names = [name for name in form.fields if hasattr(form.instance, name)]
    stored = type(form.instance)._default_manager.get(pk=form.instance.pk)
    return environments.fields_of(stored, names)


@require_GET
@require("settings.edit")
def settings_page(request: HttpRequest) -> HttpResponse:
    """What the viewer may edit, and nothing else."""
    user: Any = request.user
    places = environments_for(user, "settings.edit").prefetch_related("health_checks")
    memberships = memberships_for(user, "settings.edit").select_related(
        "application", "environment__application"
    )
    applications = applications_for(user, "settings.edit") | Application.objects.filter(
        pk__in=places.order_by().values("application")
    )
    persons = User.objects.order_by("username")
    if not can(user, "settings.edit", CONSOLE):
        persons = persons.filter(pk__in=memberships.values("user"))
    context = {
        "applications": applications.prefetch_related(Prefetch("environments", places)),
        "people": persons.prefetch_related(Prefetch("memberships", memberships)),
        "panels": [panel(request) for panel in SETTINGS_PANELS],
        "workers": Worker.objects.order_by("-last_seen_at")[:20],
    }
    return render(request, "opsconsole/settings_page.html", context)


@require("settings.edit")
def edit_application(request: HttpRequest, pk: int | None = None) -> HttpResponse:
    if pk is None:
        authorize(request.user, "settings.edit", CONSOLE)  # type: ignore[arg-type]
    application = Application() if pk is None else application_or_404(request, pk, "settings.edit")
    form = ApplicationForm(request.POST or None, instance=application)
    if request.method == "POST" and form.is_valid():
        environments.save_application(
            actor=request.user, application=form.instance, before=_values(form)  # type: ignore[arg-type]
        )  # fmt: skip
        messages.success(request, _("Saved."))
        return redirect("settings")
    title = _("Edit application") if pk else _("Add an application")
    return _form_page(request, form, title, "settings")


@require("settings.edit")
def edit_environment(
    request: HttpRequest, application_id: int, pk: int | None = None
) -> HttpResponse:
    if pk is None:
        application = application_or_404(request, application_id, "settings.edit")
        environment = Environment(position=application.environments.count() + 1)
    else:
        environment = environment_by_key_or_404(request, pk, "settings.edit")
        application = environment.application
        if application.pk != application_id:
            raise Http404
    form = EnvironmentForm(request.POST or None, instance=environment, application=application)
    if request.method == "POST" and form.is_valid():
        saved = environments.save_environment(
            actor=request.user,  # type: ignore[arg-type]
            environment=form.instance,
            before=_values(form),
            address=form.cleaned_data["address"],
            scratch_address=form.new_scratch_address,
        )
        runs.send_short("migrations_app.observe_environment", saved.pk)
        messages.success(request, _("Saved. A worker is testing the connection now."))
        return redirect("connection-test", saved.pk)
    title = _("Edit environment") if pk else _("Add an environment")
    return _form_page(request, form, title, "settings")


@require_GET
@require("settings.edit")
def connection_test(request: HttpRequest, pk: int) -> HttpResponse:
    """What the worker found when it last connected; asks again every second until it did."""
    environment = environment_by_key_or_404(request, pk, "settings.edit")
    template = "_connection_test" if request.htmx else "connection_test"  # type: ignore[attr-defined]
    state = environment.target.latest_state
    return render(
        request,
        f"opsconsole/{template}.html",
        {"environment": environment, "state": state, "is_fresh": state and state.is_fresh(10)},
    )


@require_POST
@require("settings.edit")
def test_connection(request: HttpRequest, pk: int) -> HttpResponse:
    environment = environment_by_key_or_404(request, pk, "settings.edit")
    audit.record("target.tested", actor=request.user, environment=environment)  # type: ignore[arg-type]
    if not runs.send_short("migrations_app.observe_environment", pk):
        raise Refused(_("No worker can be asked now: the broker does not answer."), status=503)
    return redirect("connection-test", pk)


@require("settings.edit")
def edit_health_check(
    request: HttpRequest, environment_id: int, pk: int | None = None
) -> HttpResponse:
    environment = environment_by_key_or_404(request, environment_id, "settings.edit")
    check = get_object_or_404(HealthCheck, pk=pk, environment=environment) if pk else HealthCheck()
    form = HealthCheckForm(request.POST or None, instance=check, environment=environment)
    if request.method == "POST" and form.is_valid():
        environments.save_health_check(
            actor=request.user, check=form.instance, before=_values(form)  # type: ignore[arg-type]
        )  # fmt: skip
        messages.success(request, _("Saved."))
        return redirect("settings")
    title = _("Edit health check") if pk else _("Add a health check")
    return _form_page(request, form, title, "settings")


@require_on_console("settings.edit")
def add_person(request: HttpRequest) -> HttpResponse:
    form = PersonForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        user = form.save(commit=False)
        people.add_person(
            actor=request.user, user=user, role=form.cleaned_data["role"]  # type: ignore[arg-type]
        )  # fmt: skip
        messages.success(request, _("%(user)s can sign in now.") % {"user": user})
        return redirect("settings")
    return _form_page(request, form, _("Add a person"), "settings")


@require("settings.edit")
def grant_role(request: HttpRequest) -> HttpResponse:
    actor: Any = request.user
    form = MembershipForm(request.POST or None, initial=request.GET.dict(), actor=actor)
    if request.method == "POST" and form.is_valid():
        people.grant_role(actor=actor, membership=form.instance)
        messages.success(request, _("Saved."))
        return redirect("settings")
    return _form_page(request, form, _("Give a role"), "settings")


@require_POST
@require_on_console("settings.edit")
def let_in(request: HttpRequest, pk: int) -> HttpResponse:
    user = get_object_or_404(User, pk=pk)
    people.let_in(actor=request.user, user=user)  # type: ignore[arg-type]
    messages.success(request, _("%(user)s can sign in now.") % {"user": user})
    return redirect("settings")


def _archive_application(request: HttpRequest, pk: int) -> None:
    application = application_or_404(request, pk, "settings.edit")
    environments.archive_application(actor=request.user, application=application)  # type: ignore[arg-type]


def _archive_environment(request: HttpRequest, pk: int) -> None:
    environment = environment_by_key_or_404(request, pk, "settings.edit")
    environments.archive_environment(actor=request.user, environment=environment)  # type: ignore[arg-type]


def _delete_health_check(request: HttpRequest, pk: int) -> None:
    visible = visible_environments(request.user)  # type: ignore[arg-type]
    check = get_object_or_404(HealthCheck, pk=pk, environment__in=visible)
    environments.delete_health_check(actor=request.user, check=check)  # type: ignore[arg-type]


def _revoke_role(request: HttpRequest, pk: int) -> None:
    actor: Any = request.user
    membership = get_object_or_404(memberships_for(actor, "settings.edit"), pk=pk)
    people.revoke_role(actor=actor, membership=membership)


def _lock_out(request: HttpRequest, pk: int) -> None:
    authorize(request.user, "settings.edit", CONSOLE)  # type: ignore[arg-type]
    user = get_object_or_404(User, pk=pk)
    people.lock_out(actor=request.user, user=user)  # type: ignore[arg-type]


REMOVALS: dict[str, Callable[[HttpRequest, int], None]] = {
    "application": _archive_application,
    "environment": _archive_environment,
    "health-check": _delete_health_check,
    "role": _revoke_role,
    "person": _lock_out,
}


@require_POST
@require("settings.edit")
def remove(request: HttpRequest, thing: str, pk: int) -> HttpResponse:
    """Archive, remove, revoke or lock out one thing; each is a service that may refuse."""
    if thing not in REMOVALS:
        raise Http404
    REMOVALS[thing](request, pk)
    messages.success(request, _("Done."))
    return redirect("settings")


def preferences(request: HttpRequest) -> HttpResponse:
    """Every person's own look and time zone."""
    form = PreferencesForm(request.POST or None, instance=request.user)
    if request.method == "POST" and form.is_valid():
        form.save()
        messages.success(request, _("Saved."))
        return redirect("preferences")
    return _form_page(request, form, _("Preferences"), "home")
