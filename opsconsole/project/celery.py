"""The Celery application. A message carries an id and is only a hint: the row is the truth."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "opsconsole.project.settings")

# Workers import their `tasks` modules.
TASK_PACKAGES = [
    "opsconsole.health",
    "opsconsole.runs",
    "opsconsole.work",
    "backups_app",
    "migrations_app",
]

app = Celery("opsconsole")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(TASK_PACKAGES)
