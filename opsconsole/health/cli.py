"""Verbs on health."""

from __future__ import annotations

from django.utils.timezone import now

from opsconsole.cli import DONE, FAILED, Call, Verb, takes, wait_for
from opsconsole.environments.cli import target_of
from opsconsole.exceptions import Refused
from opsconsole.formats import duration
from opsconsole.health import services as health
from opsconsole.health.models import HealthResult
from opsconsole.runs.cli import Document
from opsconsole.runs.models import Run


def check_health(call: Call) -> int:
    environment = target_of(call).environment
    if not environment.health_checks.filter(is_enabled=True).exists():
        raise Refused(f"{environment.path} has no health check; an admin adds one in Settings")
    asked = now()
    health.request_check(actor=call.actor(), environment=environment)
    wanted = environment.health_checks.filter(is_enabled=True).count()

    def answers() -> list[HealthResult] | None:
        found = environment.health_results.filter(observed_at__gt=asked, run=None)
        return list(found[:wanted]) if len(found) >= wanted else None

    results = wait_for(answers)
    call.print([_row(result) for result in results], [_text(result) for result in results])
    return DONE if all(result.is_healthy for result in results) else FAILED


def health_of_run(run: Run) -> Document:
    """What a run's document says of health."""
    return {"health": [_row(result) for result in run.health_results.order_by("observed_at")]}


def _row(result: HealthResult) -> Document:
    return {
        "check": result.check_name,
        "phase": result.phase,
        "healthy": result.is_healthy,
        "latency_ms": result.latency_ms,
        "summary": result.summary,
        "at": result.observed_at,
    }


def _text(result: HealthResult) -> str:
    return f"{result.check_name:20} {result.summary} in {duration(result.latency_ms / 1000)}"


VERBS = [Verb("health", "ask the health checks now", check_health, takes("environment"))]
