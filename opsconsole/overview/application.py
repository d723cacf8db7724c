"""The page of one application: what its environments have in common."""

from __future__ import annotations

from django.http import Http404, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from opsconsole.access.http import ConsoleRequest
from opsconsole.access.permissions import require
from opsconsole.environments.visibility import visible_environments
from opsconsole.overview.panels import APPLICATION_PANELS


@require_GET
@require("console.view")
def application_page(request: ConsoleRequest, application: str) -> HttpResponse:
    environments = list(visible_environments(request.user).filter(application__slug=application))
    if not environments:
        raise Http404
    found = environments[0].application
    context = {
        "application": found,
        "environments": environments,
        "panels": [panel(request, found, environments) for panel in APPLICATION_PANELS],
    }
    return render(request, "opsconsole/application_page.html", context)
