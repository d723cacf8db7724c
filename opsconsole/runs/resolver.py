"""Give a lost run its true end, read from evidence. Never runs it again."""

from __future__ import annotations

import logging
from contextlib import suppress

import psycopg
from django.db import IntegrityError, connection, transaction

from opsconsole.exceptions import AdapterError
from opsconsole.runs import services as runs
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.documents import Unreadable
from opsconsole.runs.models import Run
from opsconsole.runs.operation import LostRun, Resolution
from opsconsole.runs.recorder import Recorder
from opsconsole.runs.registry import OPERATIONS, PERIODIC, STATE_READERS
from opsconsole.sentences import Text, say
from opsconsole.work.sending import send_short

logger = logging.getLogger(__name__)
LOCK_SPACE = 0x0B5


def resolve_lost_run(run_id: int) -> None:
    """Resolve one lost run. While the target cannot be asked it stays lost, and locked."""
    run = Run.objects.select_related(
        "environment__application", "target__environment__application", "plan", "requested_by"
    ).get(pk=run_id)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s, %s)", [LOCK_SPACE, run_id % 2**31])
        if not cursor.fetchone()[0]:
            return
        try:
            run.refresh_from_db(fields=["status", "claim_token", "result", "log_seq"])
            if run.status == RunStatus.LOST:
                _resolve(run)
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s, %s)", [LOCK_SPACE, run_id % 2**31])


def _resolve(run: Run) -> None:
    try:
        resolution = _resolution_of(run)
    except (AdapterError, psycopg.Error, OSError) as error:
        logger.warning("run %s stays lost for now: %s", run.pk, type(error).__name__)
        return
    if run.changes_target:
        for read_state in STATE_READERS:
            read_state(run)
    with transaction.atomic():
        _say_where_the_log_ends(run)
        runs.finish_run(run, resolution.status, resolution.summary)
    for periodic in PERIODIC:
        send_short(periodic.task, periodic.about(run.target))


def _say_where_the_log_ends(run: Run) -> None:
    recorder = Recorder(run)
    recorder.log("the run was lost: lines after this one may be missing", "hm")
    # A log whose numbers do not fit what is stored of it keeps no run from its end.
    with suppress(IntegrityError), transaction.atomic():
        recorder.flush()


def _resolution_of(run: Run) -> Resolution:
    """What the operation reads from evidence; a person decides where the console cannot ask it."""
    operation = OPERATIONS.get(run.operation)
    if operation is None:
        return _unresolved(
            say("this console has no operation %(operation)s", operation=run.operation or run.kind)
        )
    try:
        lost = LostRun(run, operation.read(run), operation.Result.read(run.result))
    except Unreadable as error:
        return _unresolved(error.text)
    resolution = operation.resolve(lost)
    run.result = lost.result.stored_over(run.result)
    return resolution


def _unresolved(why: Text) -> Resolution:
    return Resolution(
        RunStatus.NEEDS_ATTENTION,
        say("The run was lost, and how the run ended cannot be read: %(why)s.", why=why),
    )
