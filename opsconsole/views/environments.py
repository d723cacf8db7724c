"""The page of one environment, and its health check now."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from opsconsole.exceptions import Refused
from opsconsole.models import HealthResult
from opsconsole.panels import ENVIRONMENT_ACTIONS, ENVIRONMENT_PANELS
from opsconsole.permissions import require
from opsconsole.services import health, runs
from opsconsole.views.home import stages_of
from opsconsole.views.pages import environment_or_404, new_key


@require_GET
@require("console.view")
def environment_page(request: HttpRequest, application: str, environment: str) -> HttpResponse:
    found = environment_or_404(request, application, environment, "console.view")
    stage = stages_of([found])[0]
    context = {
        "environment": found,
        "stage": stage,
        "key": new_key(),
        "actions": [part(request, found) for part in ENVIRONMENT_ACTIONS],
        "panels": [part(request, found) for part in ENVIRONMENT_PANELS],
        "runs": found.runs.for_list()[:8],
        "checks": found.health_checks.all(),
        "samples": HealthResult.objects.filter(environment=found, run=None)[:20],
    }
    return render(request, "opsconsole/environment_page.html", context)


@require_GET
@require("console.view")
def environment_health(request: HttpRequest, application: str, environment: str) -> HttpResponse:
    found = environment_or_404(request, application, environment, "console.view")
    stage = stages_of([found])[0]
    samples = HealthResult.objects.filter(environment=found, run=None)[:20]
    return render(
        request,
        "opsconsole/_environment_health.html",
        {"environment": found, "stage": stage, "samples": samples},
    )


@require_POST
@require("health.check")
def check_health(request: HttpRequest, application: str, environment: str) -> HttpResponse:
    found = environment_or_404(request, application, environment, "health.check")
    health.request_check(actor=request.user, environment=found)  # type: ignore[arg-type]
    if not runs.send_short("opsconsole.sample_health", found.pk):
        raise Refused(_("Health cannot be checked now: the broker does not answer."), status=503)
    messages.success(request, _("Checking health now; the answers appear below."))
    return redirect(found.get_absolute_url() + "#health")
