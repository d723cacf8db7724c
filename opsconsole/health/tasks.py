"""Celery tasks of health checks. Each takes an id, loads, calls one function."""

from __future__ import annotations

from celery import shared_task

from opsconsole.environments.models import Environment
from opsconsole.health.services import SAMPLE_HEALTH, check_environment
from opsconsole.work.turns import turn


@shared_task(name=SAMPLE_HEALTH)
def sample_health(environment_id: int) -> None:
    with turn(SAMPLE_HEALTH, environment_id) as is_ours:
        if is_ours:
            environments = Environment.objects.prefetch_related("targets")
            check_environment(environments.get(pk=environment_id))
