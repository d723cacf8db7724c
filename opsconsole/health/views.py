"""Health in the browser: ask now, and the checks of an environment."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from opsconsole.access.http import ConsoleRequest
from opsconsole.access.permissions import (
    require,
)
from opsconsole.environments.lookup import (
    environment_by_key_or_404,
    environment_or_404,
)
from opsconsole.environments.visibility import (
    visible_environments,
)
from opsconsole.health import services as health
from opsconsole.health.checks import delete_health_check, save_health_check
from opsconsole.health.forms import HealthCheckForm
from opsconsole.health.models import HealthCheck
from opsconsole.web.forms import form_page, values_before


@require_POST
@require("health.check")
def check_health(request: ConsoleRequest, application: str, environment: str) -> HttpResponse:
    found = environment_or_404(request, application, environment, "health.check")
    health.request_check(actor=request.user, environment=found)
    messages.success(request, _("Checking health now; the answers appear below."))
    return redirect(found.get_absolute_url() + "#health")


@require("settings.edit")
def edit_health_check(
    request: ConsoleRequest, environment_id: int, pk: int | None = None
) -> HttpResponse:
    environment = environment_by_key_or_404(request, environment_id, "settings.edit")
    check = get_object_or_404(HealthCheck, pk=pk, environment=environment) if pk else HealthCheck()
    form = HealthCheckForm(request.POST or None, instance=check, environment=environment)
    if request.method == "POST" and form.is_valid():
        save_health_check(actor=request.user, check=form.instance, before=values_before(form))
        messages.success(request, _("Saved."))
        return redirect(environment)
    title = _("Edit health check") if pk else _("Add a health check")
    return form_page(request, form, title, environment)


@require_POST
@require("settings.edit")
def remove_health_check(request: ConsoleRequest, pk: int) -> HttpResponse:
    visible = visible_environments(request.user)
    check = get_object_or_404(HealthCheck, pk=pk, environment__in=visible)
    delete_health_check(actor=request.user, check=check)
    messages.success(request, _("Done."))
    return redirect("settings")
