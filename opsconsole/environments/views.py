"""Applications, environments and their connections, in the settings."""

from __future__ import annotations

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from opsconsole.access.http import ConsoleRequest
from opsconsole.access.permissions import require
from opsconsole.environments import services as environments
from opsconsole.environments.forms import ApplicationForm, EnvironmentForm
from opsconsole.environments.lookup import (
    application_or_404,
    environment_by_key_or_404,
    target_by_key_or_404,
)
from opsconsole.environments.verdicts import verdicts_of
from opsconsole.web.forms import Given, act_on, form_page, values_before
from opsconsole.web.polling import polled


@require("settings.edit")
def edit_application(request: ConsoleRequest, pk: int) -> HttpResponse:
    application = application_or_404(request, pk, "settings.edit")
    form = ApplicationForm(request.POST or None, instance=application)
    if request.method == "POST" and form.is_valid():
        environments.save_application(
            actor=request.user, application=form.instance, before=values_before(form)
        )
        messages.success(request, _("Saved."))
        return redirect("settings")
    return form_page(request, form, _("Edit application"), "settings")


@require("settings.edit")
def edit_environment(request: ConsoleRequest, application_id: int, pk: int) -> HttpResponse:
    target = target_by_key_or_404(request, pk, "settings.edit")
    application = target.environment.application
    if application.pk != application_id:
        raise Http404
    form = EnvironmentForm(request.POST or None, target=target, application=application)

    def act(given: Given) -> HttpResponse:
        saved = environments.save_environment(
            actor=request.user,
            target=target,
            before=values_before(form),
            address=given["address"],
            scratch_address=form.new_address("scratch"),
            quarantine_address=form.new_address("quarantine"),
        )
        messages.success(request, _("Saved. A worker will test the connection."))
        return redirect("connection-test", saved.pk)

    return act_on(
        request, form, act, title=_("Edit environment"), back="settings", submit=_("Save")
    )


@require_GET
@require("settings.edit")
@polled
def connection_test(request: ConsoleRequest, pk: int) -> HttpResponse:
    """What a worker found when it last connected; asks again every second while one is to."""
    target = target_by_key_or_404(request, pk, "settings.edit")
    template = "_connection_test" if request.htmx else "connection_test"
    state = target.latest_state
    context = {
        "environment": target.environment,
        "state": state,
        "verdicts": verdicts_of(target, state) if state and not state.error else [],
        "waiting": environments.pending_connection_test(target),
    }
    return render(request, f"opsconsole/{template}.html", context)


@require_POST
@require("settings.edit")
def test_connection(request: ConsoleRequest, pk: int) -> HttpResponse:
    target = target_by_key_or_404(request, pk, "settings.edit")
    environments.request_connection_test(actor=request.user, target=target)
    return redirect("connection-test", pk)


@require_POST
@require("settings.edit")
def archive_application(request: ConsoleRequest, pk: int) -> HttpResponse:
    application = application_or_404(request, pk, "settings.edit")
    environments.archive_application(actor=request.user, application=application)
    messages.success(request, _("Done."))
    return redirect("settings")


@require_POST
@require("settings.edit")
def archive_environment(request: ConsoleRequest, pk: int) -> HttpResponse:
    environment = environment_by_key_or_404(request, pk, "settings.edit")
    environments.archive_environment(actor=request.user, environment=environment)
    messages.success(request, _("Done."))
    return redirect("settings")
