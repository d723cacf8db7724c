"""Celery tasks. Each takes an id, loads, calls one function."""

from celery import shared_task

from backups_app.models import ReplacedDatabase
from backups_app.work import drop_replaced_database


@shared_task(name="backups_app.drop_replaced")
def drop_replaced(replaced_id: int) -> None:
    drop_replaced_database(
        ReplacedDatabase.objects.select_related("target__environment").get(pk=replaced_id)
    )
