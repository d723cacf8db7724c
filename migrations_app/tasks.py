"""Celery tasks. Each takes an id, loads, calls one function."""

from celery import shared_task

from migrations_app.reading.drift import check_drift
from migrations_app.reading.observation import observe_target
from migrations_app.services.drift import CHECK_DRIFT
from migrations_app.services.migrations import OBSERVE
from migrations_app.services.repositories import OBSERVE_ENVIRONMENT
from opsconsole.environments.models import Environment, Target


@shared_task(name=OBSERVE)
def observe(target_id: int) -> None:
    observe_target(Target.objects.select_related("environment__application").get(pk=target_id))


@shared_task(name=OBSERVE_ENVIRONMENT)
def observe_environment(environment_id: int) -> None:
    environment = Environment.objects.select_related("application").get(pk=environment_id)
    observe_target(environment.only_target)


@shared_task(name=CHECK_DRIFT)
def check_environment_drift(environment_id: int) -> None:
    environment = Environment.objects.select_related("application").get(pk=environment_id)
    check_drift(environment.only_target)
