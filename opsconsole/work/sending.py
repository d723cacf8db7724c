"""Messages to workers. Each carries an id and is only a hint, which may be lost.

A module that sends a task declares the task's key here, and the task takes its name from that key:
nothing is sent under a name that no check has seen.
"""

from __future__ import annotations

import logging
from typing import NewType

from celery import current_app
from django.conf import settings

logger = logging.getLogger(__name__)
TaskKey = NewType("TaskKey", str)
# A system check finds those that are no task.
TASK_KEYS: set[TaskKey] = set()


def task_key(name: str) -> TaskKey:
    """Declare the key of a task that this module sends; returns it."""
    key = TaskKey(name)
    TASK_KEYS.add(key)
    return key


def send(task: TaskKey, object_id: int, *, queue: str, expires: float | None = None) -> bool:
    """Hint to the workers of a queue; False when the broker is away. Expires after seconds."""
    try:
        current_app.send_task(task, args=[object_id], queue=queue, retry=False, expires=expires)
    except Exception as error:  # kombu raises the transport's own errors
        logger.warning("%s %s not sent: %s", task, object_id, type(error).__name__)
        return False
    return True


def send_short(task: TaskKey, object_id: int, expires: float | None = None) -> bool:
    """Send short work, a reading or a sample that is soon taken again; False as `send`."""
    return send(task, object_id, queue=settings.SHORT_QUEUE, expires=expires)
