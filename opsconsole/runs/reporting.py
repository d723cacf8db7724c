"""What a Celery worker reports of itself, and what it does when it is asked to end."""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING

from celery import signals
from django.conf import settings
from django.db import DatabaseError, connections
from django.db.models.functions import Now
from django.utils import timezone

from opsconsole.environments import secrets
from opsconsole.runs.lease import worker_is_ending
from opsconsole.runs.workers import Worker

if TYPE_CHECKING:
    from celery.worker.consumer import Consumer

_name = ""
_closing = threading.Event()


def this_worker() -> str:
    """The name of this worker process."""
    return _name or f"local@{socket.gethostname()}"


@signals.celeryd_init.connect
def _become_worker(sender: str, **_kwargs: object) -> None:
    global _name
    _name = sender
    secrets.allow_opening()


@signals.worker_ready.connect
def _start_reporting(sender: Consumer, **_kwargs: object) -> None:
    queues = [queue.name for queue in sender.task_consumer.queues]
    threading.Thread(target=_report, args=[queues], name="report", daemon=True).start()


@signals.worker_shutting_down.connect
def _cancel_runs(**_kwargs: object) -> None:
    worker_is_ending.set()
    _closing.set()


def _report(queues: list[str]) -> None:
    row = {"host": socket.gethostname(), "pid": os.getpid(), "queues": queues}
    row |= {"started_at": timezone.now(), "key_marks": " ".join(secrets.key_marks())}
    while True:
        try:
            Worker.objects.update_or_create(name=_name, defaults=row | {"last_seen_at": Now()})
        except DatabaseError:
            connections.close_all()
        if _closing.wait(settings.WORKER_SEEN_SECONDS):
            break
    connections.close_all()
