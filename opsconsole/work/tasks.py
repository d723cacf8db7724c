"""Celery tasks of the work list. Each takes an id, loads, calls one function."""

from __future__ import annotations

from celery import shared_task

from opsconsole.work.services import DO_WORK
from opsconsole.work.worker import do_work as do


@shared_task(name=DO_WORK)
def do_work(item_id: int) -> None:
    do(item_id)
