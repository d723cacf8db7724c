"""Celery tasks. Each takes an id, loads, calls one function."""

from celery import shared_task

from migrations_app.reading.drift import check_drift
from migrations_app.reading.observation import observe_target
from migrations_app.services.drift import CHECK_DRIFT
from migrations_app.services.migrations import OBSERVE
from opsconsole.environments.models import Target
from opsconsole.work.turns import turn


@shared_task(name=OBSERVE)
def observe(target_id: int) -> None:
    with turn(OBSERVE, target_id) as is_ours:
        if is_ours:
            targets = Target.objects.select_related("environment__application")
            observe_target(targets.get(pk=target_id))


@shared_task(name=CHECK_DRIFT)
def check_target_drift(target_id: int) -> None:
    with turn(CHECK_DRIFT, target_id) as is_ours:
        if is_ours:
            check_drift(Target.objects.get(pk=target_id))
