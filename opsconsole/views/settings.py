"""Settings: applications, environments, health checks, people. Only for admins."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from opsconsole.exceptions import Refused
from opsconsole.forms.settings import (
    ApplicationForm,
    EnvironmentForm,
    HealthCheckForm,
    MembershipForm,
    PersonForm,
    PreferencesForm,
)
from opsconsole.models import Application, Environment, HealthCheck, Membership, User, Worker
from opsconsole.panels import SETTINGS_PANELS
from opsconsole.permissions import require
from opsconsole.services import audit, environments, runs


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
    context = {
        "applications": Application.objects.filter(archived_at=None).prefetch_related(
            "environments__health_checks", "environments__target"
        ),
        "people": User.objects.prefetch_related(
            "memberships__application", "memberships__environment__application"
        ).order_by("username"),
        "panels": [panel(request) for panel in SETTINGS_PANELS],
        "workers": Worker.objects.order_by("-last_seen_at")[:20],
    }
    return render(request, "opsconsole/settings_page.html", context)


@require("settings.edit")
def edit_application(request: HttpRequest, pk: int | None = None) -> HttpResponse:
    application = get_object_or_404(Application, pk=pk) if pk else Application()
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
    application = get_object_or_404(Application, pk=application_id)
    environment = (
        get_object_or_404(Environment, pk=pk, application=application)
        if pk
        else Environment(position=application.environments.count() + 1)
    )
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
    environment = get_object_or_404(
        Environment.objects.select_related("target", "application"), pk=pk
    )
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
    environment = get_object_or_404(Environment, pk=pk)
    audit.record("target.tested", actor=request.user, environment=environment)  # type: ignore[arg-type]
    if not runs.send_short("migrations_app.observe_environment", pk):
        raise Refused(_("No worker can be asked now: the broker does not answer."), status=503)
    return redirect("connection-test", pk)


@require("settings.edit")
def edit_health_check(
    request: HttpRequest, environment_id: int, pk: int | None = None
) -> HttpResponse:
    environment = get_object_or_404(Environment, pk=environment_id)
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


@require("settings.edit")
def add_person(request: HttpRequest) -> HttpResponse:
    form = PersonForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        user = form.save(commit=False)
        environments.add_person(
            actor=request.user, user=user, role=form.cleaned_data["role"]  # type: ignore[arg-type]
        )  # fmt: skip
        messages.success(request, _("%(user)s can sign in now.") % {"user": user})
        return redirect("settings")
    return _form_page(request, form, _("Add a person"), "settings")


@require("settings.edit")
def grant_role(request: HttpRequest) -> HttpResponse:
    form = MembershipForm(request.POST or None, initial=request.GET.dict())
    if request.method == "POST" and form.is_valid():
        environments.grant_role(actor=request.user, membership=form.instance)  # type: ignore[arg-type]
        messages.success(request, _("Saved."))
        return redirect("settings")
    return _form_page(request, form, _("Give a role"), "settings")


@require_POST
@require("settings.edit")
def remove(request: HttpRequest, thing: str, pk: int) -> HttpResponse:
    """Archive, remove or revoke one thing; each of them is a service that may refuse."""
    actor: Any = request.user
    if thing == "application":
        application = get_object_or_404(Application, pk=pk)
        environments.archive_application(actor=actor, application=application)
    elif thing == "environment":
        environment = get_object_or_404(Environment, pk=pk)
        environments.archive_environment(actor=actor, environment=environment)
    elif thing == "health-check":
        check = get_object_or_404(HealthCheck, pk=pk)
        environments.delete_health_check(actor=actor, check=check)
    elif thing == "role":
        membership = get_object_or_404(Membership, pk=pk)
        environments.revoke_role(actor=actor, membership=membership)
    else:
        user = get_object_or_404(User, pk=pk)
        environments.set_active(actor=actor, user=user, is_active=not user.is_active)
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
