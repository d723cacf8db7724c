"""Celery tasks of the platform. Each takes an id, loads, calls one function."""

from celery import shared_task

from opsconsole.runs.executor import execute_run as execute
from opsconsole.runs.reporting import this_worker
from opsconsole.runs.resolver import resolve_lost_run


@shared_task(name="opsconsole.execute_run", acks_late=False, max_retries=0, ignore_result=True)
def execute_run(run_id: int) -> None:
    execute(run_id, this_worker())


@shared_task(name="opsconsole.resolve_lost_run")
def resolve_lost(run_id: int) -> None:
    resolve_lost_run(run_id)
