"""Celery tasks of the platform. Each takes an id, loads, calls one function."""

from celery import shared_task

from opsconsole.runs.executor import execute_run as execute
from opsconsole.runs.reporting import this_worker
from opsconsole.runs.resolver import resolve_lost_run
from opsconsole.runs.services import EXECUTE_RUN, RESOLVE_LOST_RUN


@shared_task(name=EXECUTE_RUN, acks_late=False, max_retries=0, ignore_result=True)
def execute_run(run_id: int) -> None:
    execute(run_id, this_worker())


@shared_task(name=RESOLVE_LOST_RUN)
def resolve_lost(run_id: int) -> None:
    resolve_lost_run(run_id)
