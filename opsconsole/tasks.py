"""Celery tasks of the platform. Each takes an id, loads, calls one function."""

from celery import shared_task

from opsconsole.models import Environment
from opsconsole.runner.executor import execute_run as execute
from opsconsole.runner.resolver import resolve_lost_run
from opsconsole.runner.work import do_work as do
from opsconsole.services.health import check_environment
from opsconsole.signals import this_worker


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
