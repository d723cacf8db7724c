"""Execute one claimed run: its steps in order, the way back when one fails, one true end."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import psycopg
from django.conf import settings
from django.db import connections

from opsconsole.environments.secrets import resolve_dsn
from opsconsole.exceptions import (
    AdapterError,
    Cancelled,
    ConsoleError,
    FencedOut,
    NeedsAttention,
    Refused,
    StepFailed,
)
from opsconsole.redaction import redact
from opsconsole.runs import services as runs
from opsconsole.runs.choices import RunStatus, StepStatus
from opsconsole.runs.lease import LeaseKeeper, worker_is_ending
from opsconsole.runs.models import Run
from opsconsole.runs.operation import Operation
from opsconsole.runs.patience import Lease, is_away, patiently, surviving
from opsconsole.runs.recorder import Recorder
from opsconsole.runs.registry import OPERATIONS, PERIODIC, STATE_READERS
from opsconsole.runs.step import RunContext, Step
from opsconsole.sentences import Text, say
from opsconsole.targets import server
from opsconsole.targets.availability import AvailabilitySampler
from opsconsole.targets.server import TargetLock
from opsconsole.work.sending import send_short

logger = logging.getLogger(__name__)
End = tuple[RunStatus, Text]
CLEANUP_SECONDS = 8
CLEANUP_PAUSE_SECONDS = 0.5


def execute_run(run_id: int, worker_name: str) -> None:
    """Claim the run and execute it; a run that cannot be claimed is left alone."""
    try:
        if claimed := _claim(run_id, worker_name):
            run, lease = claimed
            with surviving(lease):
                _execute(run, lease)
    except FencedOut as error:
        logger.warning("run %s: %s", run_id, error)
    finally:
        connections.close_all()


def _claim(run_id: int, worker_name: str) -> tuple[Run, Lease] | None:
    """The claimed run, and its lease as of the try that was answered."""
    token = uuid.uuid4()

    def claim() -> tuple[Run, Lease] | None:
        lease = Lease()
        run = runs.claim_run(run_id, worker_name, token)
        return (run, lease) if run else None

    return Lease().patiently(claim)


def _execute(run: Run, lease: Lease) -> None:
    try:
        dsn = resolve_dsn(run.target)
    except (AdapterError, Refused) as error:
        _end(run, RunStatus.FAILED, _nothing_changed(error))
        return
    operation = OPERATIONS[run.operation]
    with Recorder(run, [dsn.password], lease) as recorder:
        asked, result = operation.read(run), operation.Result.read(run.result)
        context = RunContext(run, asked, result, dsn, recorder)
        status, summary = _with_lock(context, operation)
        context.check_fence()
        run.result = result.stored_over(run.result)
        if run.changes_target:
            _read_state(context)
    # The terminal status is written only after the last line, and after what pages will show.
    _end(run, status, recorder.redacted(summary))
    tell_state_changed(run)


def _read_state(context: RunContext) -> None:
    with LeaseKeeper(context, lock=None, is_over=True):
        for read_state in STATE_READERS:
            patiently(partial(read_state, context.run))


def _nothing_changed(error: ConsoleError) -> Text:
    return say("Nothing was changed: %(why)s", why=error.text)


def _end(run: Run, status: RunStatus, summary: Text) -> None:
    patiently(lambda: runs.finish_run(run, status, summary))


def tell_state_changed(run: Run) -> None:
    """Have the pages' picture of the environment read anew, now rather than in a minute."""
    for periodic in PERIODIC:
        send_short(periodic.task, periodic.about(run.target))


def _with_lock(context: RunContext, operation: Operation) -> End:
    """Hold the target's lock and the lease while the operation runs."""
    lock: TargetLock | None = None
    try:
        if context.run.changes_target:
            lock = TargetLock(context.dsn, context.session_name("lock"))
            lock.acquire()
    except AdapterError as error:
        if lock:
            lock.release()
        context.log(f"refused: {error}", "no")
        return RunStatus.FAILED, _nothing_changed(error)
    try:
        with LeaseKeeper(context, lock):
            return _run_sampled(context, operation)
    finally:
        if lock:
            lock.release()


def _run_sampled(context: RunContext, operation: Operation) -> End:
    sampler = _start_sampler(context)
    try:
        return _run_steps(context, operation)
    finally:
        with suppress(FencedOut):
            _finish(context, operation, sampler)


def _start_sampler(context: RunContext) -> AvailabilitySampler | None:
    if not context.run.changes_target:
        return None
    sampler = AvailabilitySampler(
        context.dsn, context.session_name("availability"), settings.AVAILABILITY_SAMPLE_SECONDS
    )
    sampler.start()
    return sampler


def _finish(context: RunContext, operation: Operation, sampler: AvailabilitySampler | None) -> None:
    if sampler:
        context.result.availability = sampler.stop()
    _clean_up(context, operation)
    context.close_sessions()


def _clean_up(context: RunContext, operation: Operation) -> None:
    """Nothing tidies up later, and a server that fell or cut us off is back within seconds.

    A worker that is asked to end tries once: it may be ended with all else at any moment.
    """
    deadline = time.monotonic() + CLEANUP_SECONDS
    while True:
        try:
            context.resume_for_rollback()
            operation.cleanup(context)
        except (AdapterError, psycopg.Error) as error:
            if time.monotonic() > deadline or worker_is_ending.wait(CLEANUP_PAUSE_SECONDS):
                context.log(f"cleaning up: {error}", "hm")
                return
        else:
            return


def _run_steps(context: RunContext, operation: Operation) -> End:
    try:
        _run_in_order(context, operation.steps(context.target, context.parameters))
    except Cancelled as error:
        state = error.text or operation.describe(context)
        context.log(f"cancelled: {state}", "hm")
        return RunStatus.CANCELLED, say("Cancelled. %(state)s", state=state)
    except NeedsAttention as error:
        return _needs_attention(context, error)
    except StepFailed as error:
        return _go_back(context, operation, error.text)
    return RunStatus.SUCCEEDED, operation.describe(context)


def _go_back(context: RunContext, operation: Operation, why: Text) -> End:
    """Run the way back of the operation, if it has one from here."""
    context.failure = why
    context.recorder.skip_pending()
    try:
        way_back = operation.way_back(context)
        if not way_back:
            return RunStatus.FAILED, _and_now(why, context, operation)
        _run_in_order(context, way_back)
    except NeedsAttention as error:
        return _needs_attention(context, error)
    except (StepFailed, Cancelled) as error:
        stuck = say(
            "%(why)s. Going back did not finish: %(what)s. %(state)s",
            why=why,
            what=error.text or say("it was cancelled"),
            state=operation.describe(context),
        )
        return _needs_attention(context, NeedsAttention(stuck))
    return RunStatus.ROLLED_BACK, _and_now(why, context, operation)


def _and_now(why: Text, context: RunContext, operation: Operation) -> Text:
    return say("%(why)s. %(state)s", why=why, state=operation.describe(context))


def _needs_attention(context: RunContext, error: NeedsAttention) -> End:
    context.result.ways = error.ways
    context.log(f"needs a decision: {error}", "hm")
    return RunStatus.NEEDS_ATTENTION, error.text


def _run_in_order(context: RunContext, steps: Sequence[Step]) -> None:
    context.recorder.plan_steps([step.name for step in steps])
    for step in steps:
        context.check()
        _run_step(context, step)


def _run_step(context: RunContext, step: Step) -> None:
    """Run one step; whatever it raises becomes StepFailed, NeedsAttention or Cancelled."""
    recorder = context.recorder
    recorder.begin_step(step.name)
    try:
        summary = step.run(context)
        context.run.result = context.result.stored_over(context.run.result)
        patiently(lambda: runs.save_result(context.run))
    except NeedsAttention as error:
        recorder.end_step(StepStatus.UNKNOWN, error.text)
        raise
    except FencedOut:
        raise
    except Exception as error:
        context.check_fence()
        if is_away(error):
            # Nothing is known against the step: how far it came is read from the target.
            raise FencedOut("the console's database is away") from error
        if isinstance(error, Cancelled) or context.is_stopping:
            recorder.end_step(
                StepStatus.CANCELLED, error.text if isinstance(error, Cancelled) else ""
            )
            raise error if isinstance(error, Cancelled) else Cancelled("") from error
        message = _message(context, step, error)
        context.log(str(message), "no")
        recorder.end_step(StepStatus.FAILED, message)
        raise StepFailed(
            say("%(step)s failed: %(why)s", step=step.name.capitalize(), why=message)
        ) from error
    recorder.end_step(StepStatus.SUCCEEDED, summary)


def _message(context: RunContext, step: Step, error: Exception) -> Text:
    if isinstance(error, (StepFailed, AdapterError, Refused)):
        return error.text
    if isinstance(error, psycopg.Error):
        return server.reason_of(error)
    if isinstance(error, OSError):
        return f"{error.strerror}: {error.filename}" if error.filename else str(error)
    # A bug of ours: the full story goes to the worker's own log, redacted like the run's.
    logger.error(
        "run %s, step %s: %s",
        context.run.pk,
        step.name,
        redact(f"{type(error).__name__}: {error}", [context.dsn.password]),
        exc_info=settings.DEBUG,
    )
    return say("unexpected %(type)s: %(error)s", type=type(error).__name__, error=error)
