"""System checks of the whole: no message goes to workers that none of them understands."""

from __future__ import annotations

from typing import Any

from django.core.checks import CheckMessage, Error, register

from opsconsole.project.celery import TASK_PACKAGES, app
from opsconsole.work.sending import TASK_KEYS


@register()
def check_task_keys(**_options: Any) -> list[CheckMessage]:
    """Every key that is sent names a task of the modules that workers import."""
    app.loader.autodiscover_tasks(TASK_PACKAGES)
    return [
        Error(
            f"{key} is sent to workers, and they have no task of that name.", id="opsconsole.E002"
        )
        for key in sorted(TASK_KEYS - app.tasks.keys())
    ]
