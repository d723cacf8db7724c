"""Give a lost run its true end, read from evidence. Never runs it again."""

from __future__ import annotations

import logging

import psycopg
from django.db import connection

from opsconsole.choices import RunKind, RunStatus
from opsconsole.exceptions import AdapterError
from opsconsole.models import Run
from opsconsole.runner.registry import PERIODIC, PIPELINES, STATE_READERS
from opsconsole.services import runs

logger = logging.getLogger(__name__)
LOCK_SPACE = 0x0B5


def resolve_lost_run(run_id: int) -> None:
    """Resolve one lost run. While the target cannot be asked it stays lost, and locked."""
    run = Run.objects.select_related(
        "environment__application", "target", "plan", "requested_by"
    ).get(pk=run_id)  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s, %s)", [LOCK_SPACE, run_id % 2**31])
        if not cursor.fetchone()[0]:
            return
        try:
            run.refresh_from_db(fields=["status", "claim_token", "result"])
            if run.status == RunStatus.LOST:
                _resolve(run)
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s, %s)", [LOCK_SPACE, run_id % 2**31])


def _resolve(run: Run) -> None:
    try:
        resolution = PIPELINES[run.kind].resolve(run)
    except (AdapterError, psycopg.Error, OSError) as error:
        logger.warning("run %s stays lost for now: %s", run.pk, type(error).__name__)
        return
    if run.kind in RunKind.changing_target():
        for read_state in STATE_READERS:
            read_state(run)
    runs.finish_run(run, resolution.status, resolution.summary)
    for periodic in PERIODIC:
        runs.send_short(periodic.task, run.environment_id)
