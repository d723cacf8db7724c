"""Applications, environments and their connections, in the settings."""

from __future__ import annotations

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from opsconsole.access.permissions import (
    authorize,
    require,
)
from opsconsole.access.places import CONSOLE
from opsconsole.environments import services as environments
from opsconsole.environments.forms import ApplicationForm, EnvironmentForm
from opsconsole.environments.lookup import application_or_404, environment_by_key_or_404
from opsconsole.environments.models import Application, Environment
from opsconsole.events import recording as audit
from opsconsole.exceptions import Refused
from opsconsole.web.forms import form_page, values_before
from opsconsole.work.sending import send_short


@require("settings.edit")
def edit_application(request: HttpRequest, pk: int | None = None) -> HttpResponse:
    if pk is None:
        authorize(request.user, "settings.edit", CONSOLE)  # type: ignore[arg-type]
    application = Application() if pk is None else application_or_404(request, pk, "settings.edit")
    form = ApplicationForm(request.POST or None, instance=application)
    if request.method == "POST" and form.is_valid():
        environments.save_application(
            actor=request.user, application=form.instance, before=values_before(form)  # type: ignore[arg-type]
        )  # fmt: skip
        messages.success(request, _("Saved."))
        return redirect("settings")
    title = _("Edit application") if pk else _("Add an application")
    return form_page(request, form, title, "settings")


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
            before=values_before(form),
            address=form.cleaned_data["address"],
            scratch_address=form.new_scratch_address,
        )
        send_short("migrations_app.observe_environment", saved.pk)
        messages.success(request, _("Saved. A worker is testing the connection now."))
        return redirect("connection-test", saved.pk)
    title = _("Edit environment") if pk else _("Add an environment")
    return form_page(request, form, title, "settings")


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
    if not send_short("migrations_app.observe_environment", pk):
        raise Refused(_("No worker can be asked now: the broker does not answer."), status=503)
    return redirect("connection-test", pk)


def _archive_application(request: HttpRequest, pk: int) -> None:
    application = application_or_404(request, pk, "settings.edit")
    environments.archive_application(actor=request.user, application=application)  # type: ignore[arg-type]


def _archive_environment(request: HttpRequest, pk: int) -> None:
    environment = environment_by_key_or_404(request, pk, "settings.edit")
    environments.archive_environment(actor=request.user, environment=environment)  # type: ignore[arg-type]
