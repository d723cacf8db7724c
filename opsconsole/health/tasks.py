"""Celery tasks of health checks. Each takes an id, loads, calls one function."""

from __future__ import annotations

from celery import shared_task

from opsconsole.environments.models import Environment
from opsconsole.health.services import SAMPLE_HEALTH, check_environment


@shared_task(name=SAMPLE_HEALTH)
def sample_health(environment_id: int) -> None:
    check_environment(Environment.objects.prefetch_related("targets").get(pk=environment_id))
