"""The page of one application: what its environments have in common."""

from __future__ import annotations

from django.http import Http404, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from opsconsole.access.http import ConsoleRequest
from opsconsole.access.permissions import require
from opsconsole.environments.visibility import visible_targets
from opsconsole.overview.panels import APPLICATION_PANELS, PartRefused


@require_GET
@require("console.view")
def application_page(request: ConsoleRequest, application: str) -> HttpResponse:
    targets = list(visible_targets(request.user).filter(environment__application__slug=application))
    if not targets:
        raise Http404
    found = targets[0].environment.application
    panels = [panel(request, found, targets) for panel in APPLICATION_PANELS]
    context = {
        "application": found,
        "environments": [target.environment for target in targets],
        "panels": panels,
    }
    status = 422 if any(isinstance(each, PartRefused) for each in panels) else 200
    return render(request, "opsconsole/application_page.html", context, status=status)
