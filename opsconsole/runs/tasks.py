"""Celery tasks of the platform. Each takes an id, loads, calls one function."""

from celery import shared_task

from opsconsole.environments.models import Environment
from opsconsole.health.services import check_environment
from opsconsole.runs.executor import execute_run as execute
from opsconsole.runs.reporting import this_worker
from opsconsole.runs.resolver import resolve_lost_run
from opsconsole.work.worker import do_work as do


@shared_task(name="opsconsole.execute_run", acks_late=False, max_retries=0, ignore_result=True)
def execute_run(run_id: int) -> None:
    execute(run_id, this_worker())


@shared_task(name="opsconsole.resolve_lost_run")
def resolve_lost(run_id: int) -> None:
    resolve_lost_run(run_id)


@shared_task(name="opsconsole.do_work")
def do_work(item_id: int) -> None:
    do(item_id)


@shared_task(name="opsconsole.sample_health")
def sample_health(environment_id: int) -> None:
    check_environment(
        Environment.objects.select_related("target", "application").get(pk=environment_id)
    )
