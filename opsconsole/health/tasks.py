"""Celery tasks of health checks. Each takes an id, loads, calls one function."""

from __future__ import annotations

import threading

from celery import shared_task

from opsconsole.environments.models import Environment
from opsconsole.health.services import SAMPLE_HEALTH, check_environment

_lock = threading.Lock()
_at_work: set[int] = set()


@shared_task(name=SAMPLE_HEALTH)
def sample_health(environment_id: int) -> None:
    """Unless this process is at it: an environment holds one of its threads and no more."""
    with _lock:
        if environment_id in _at_work:
            return
        _at_work.add(environment_id)
    try:
        check_environment(Environment.objects.prefetch_related("targets").get(pk=environment_id))
    finally:
        _at_work.discard(environment_id)
