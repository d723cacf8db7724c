"""Short work that may be lost: a reading or a sample that is soon taken again."""

from __future__ import annotations

import logging

from celery import current_app
from django.conf import settings

logger = logging.getLogger(__name__)


def send_short(task: str, object_id: int, expires: float | None = None) -> bool:
    """Send short work; False when the broker is away. The scheduler sends it again anyway."""
    try:
        current_app.send_task(
            task, args=[object_id], queue=settings.SHORT_QUEUE, retry=False, expires=expires
        )
    except Exception as error:  # kombu raises the transport's own errors
        logger.warning("%s not sent: %s", task, type(error).__name__)
        return False
    return True
