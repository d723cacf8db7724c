"""The page of one environment, and its health check now."""

from __future__ import annotations

from typing import Any

from django.db.models import Prefetch, prefetch_related_objects
from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from opsconsole.access.http import ConsoleRequest
from opsconsole.access.permissions import require
from opsconsole.environments.lookup import environment_or_404, target_or_404
from opsconsole.environments.models import Environment, TargetState
from opsconsole.health import services as health
from opsconsole.health.models import HealthResult
from opsconsole.overview.first_steps import first_steps
from opsconsole.overview.panels import (
    ENVIRONMENT_ACTIONS,
    ENVIRONMENT_PANELS,
    ENVIRONMENT_TILES,
    Stage,
)
from opsconsole.overview.standing import standing_of
from opsconsole.runs.choices import RunStatus
from opsconsole.web.pages import new_key
from opsconsole.web.polling import polled

RUNS_SHOWN = 8


@require_GET
@require("console.view")
def environment_page(request: ConsoleRequest, application: str, environment: str) -> HttpResponse:
    target = target_or_404(request, application, environment, "console.view")
    found = target.environment
    # Read once for all parts of the page.
    newest = TargetState.objects.order_by("-observed_at")[:1]
    prefetch_related_objects([target], Prefetch("states", newest, to_attr="newest_states"))
    recent = found.runs.for_list()
    holding = recent.filter(status=RunStatus.NEEDS_ATTENTION).order_by()
    rows = list(recent[:RUNS_SHOWN].union(holding).order_by("-id"))
    health_now = _health_context(found)
    stage = Stage(
        target=target,
        environment=found,
        state=target.latest_state,
        day=health_now["day"],
        holder=next((r for r in rows if r.status == RunStatus.NEEDS_ATTENTION), None),
        moving=next((r for r in rows if r.changes_target and r.state in RunStatus.active()), None),
    )
    context = health_now | {
        "stage": stage,
        "standing": standing_of(stage),
        "facts": [tile(target) for tile in ENVIRONMENT_TILES],
        "key": new_key(),
        "actions": [part(request, target) for part in ENVIRONMENT_ACTIONS],
        "panels": [part(request, target) for part in ENVIRONMENT_PANELS],
        "runs": rows[:RUNS_SHOWN],
        "first_steps": first_steps(request.user, target, rows),
    }
    return render(request, "opsconsole/environment_page.html", context)


@require_GET
@require("console.view")
@polled
def environment_health(request: ConsoleRequest, application: str, environment: str) -> HttpResponse:
    found = environment_or_404(request, application, environment, "console.view")
    return render(request, "opsconsole/_environment_health.html", _health_context(found))


def _health_context(environment: Environment) -> dict[str, Any]:
    return {
        "environment": environment,
        "day": health.health_days([environment])[environment.pk],
        "samples": HealthResult.objects.filter(environment=environment, run=None).defer("answer")[
            :20
        ],
    }
