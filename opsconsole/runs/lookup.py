"""The run that an address names, under the same rule as environments."""

from __future__ import annotations

from django.shortcuts import get_object_or_404

from opsconsole.access.http import ConsoleRequest
from opsconsole.access.permissions import authorize
from opsconsole.environments.visibility import visible_environments
from opsconsole.runs.models import Run


def run_or_404(request: ConsoleRequest, run_id: int, action: str) -> Run:
    run = get_object_or_404(
        Run.objects.whole().select_related(
            "target__environment__application", "way_back", "way_back_of"
        ),
        pk=run_id,
        environment__in=visible_environments(request.user),
    )
    authorize(request.user, action, run.environment)
    return run
