"""Celery tasks. Each takes an id, loads, calls one function."""

from celery import shared_task

from backups_app.models import RestoreCheck
from backups_app.runs import restore_check
from backups_app.services import policies, restores
from opsconsole.environments.models import Target


@shared_task(name=restores.CHECK_RESTORE)
def check_restore(check_id: int) -> None:
    restore_check.check_restore(
        RestoreCheck.objects.select_related("backup", "target").get(pk=check_id)
    )


@shared_task(name=policies.TEND)
def tend(target_id: int) -> None:
    policies.tend(Target.objects.select_related("environment__application").get(pk=target_id))
