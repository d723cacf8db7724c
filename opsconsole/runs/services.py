"""Request, claim, renew, end, cancel and decide runs.

Every change of status is one conditional UPDATE with its audit row in the same transaction.
"""

from __future__ import annotations

import logging
import uuid

from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext as _

from opsconsole.access.models import User
from opsconsole.access.permissions import authorize, can
from opsconsole.clock import in_seconds
from opsconsole.environments.models import Target
from opsconsole.events import recording as audit
from opsconsole.events.models import AuditEvent
from opsconsole.events.reasons import check_reason, require_reason
from opsconsole.exceptions import FencedOut, Kind, Refused
from opsconsole.language import in_english
from opsconsole.runs import events
from opsconsole.runs.choices import RunStatus, StepStatus
from opsconsole.runs.documents import Parameters, Unreadable
from opsconsole.runs.gates import Gate, Judged, PlanIntact, RequesterMay, in_the_way, judge
from opsconsole.runs.models import Plan, Run, Step, summed
from opsconsole.runs.operation import Asked, Operation
from opsconsole.runs.registry import OPERATIONS
from opsconsole.runs.transitions import is_allowed
from opsconsole.sentences import Text, say
from opsconsole.work.sending import send, task_key

logger = logging.getLogger(__name__)
EXECUTE_RUN = task_key("opsconsole.execute_run")
RESOLVE_LOST_RUN = task_key("opsconsole.resolve_lost_run")


def request_run(
    *,
    actor: User | None,
    target: Target,
    parameters: Parameters,
    idempotency_key: str,
    plan: Plan | None = None,
    reason: str = "",
    way_back_of: Run | None = None,
) -> Run:
    """Queue a run and return it; the same key again returns the run it made before.

    `parameters` say what is done, and with it by which operation. An actor of None is the
    console's own schedule, which needs no role. `way_back_of` names the run needing attention
    whose exit this one is. Raises Refused when the actor may not, when a gate of the operation is
    closed or has to be waited for, or when another run holds the target.
    """
    operation = OPERATIONS[parameters.operation]
    if actor is not None:
        authorize(actor, operation.action, target.environment)
    before = Run.objects.filter(idempotency_key=idempotency_key, requested_by=actor).first()
    if before:
        return before
    check_reason(reason)
    stop = in_the_way(_judged(operation, Asked(target, actor, parameters, plan)))
    if stop:
        raise Refused(
            stop.told, kind=Kind.INVALID if stop.field else Kind.CONFLICT, field=stop.field
        )
    try:
        with transaction.atomic():
            run = Run(
                operation=operation.key,
                kind=operation.kind,
                changes_target=operation.changes_target,
                excludes=operation.excludes,
                environment=target.environment,
                target=target,
                plan=plan,
                requested_by=actor,
                reason=reason,
                parameters=parameters.stored(),
                parameters_version=parameters.version,
                idempotency_key=idempotency_key,
            )
            if way_back_of:
                _hand_over(way_back_of, run)
            else:
                run.save()
            run.refresh_from_db()
            audit.record(
                events.RUN_REQUESTED,
                actor=actor,
                run=run,
                reason=reason,
                data=events.RunRequested.model_validate(
                    {
                        "kind": run.kind,
                        "operation": run.operation,
                        "plan": plan.hash if plan else "",
                        **run.parameters,
                    }
                ),
            )
            transaction.on_commit(lambda: dispatch(run.pk))
    except IntegrityError:
        before = Run.objects.filter(idempotency_key=idempotency_key).first()
        if before and before.requested_by == actor:
            return before
        raise Refused(_who_holds(target, operation)) from None
    return run


def _judged(operation: Operation, asked: Asked) -> list[Judged]:
    """The gates that every operation has, and its own."""
    gates: list[Gate] = []
    if asked.requester:
        may = can(asked.requester, operation.action, asked.target.environment)
        gates.append(RequesterMay(str(asked.requester), may))
    if asked.plan:
        gates.append(PlanIntact(asked.plan.hash, Plan.hash_of(asked.plan.content)))
    return judge([*gates, *operation.gates(asked)], timezone.now())


def _hand_over(needing: Run, way_back: Run) -> None:
    """Let `way_back` hold the target in place of the run whose exit it is.

    The unique index ignores a run that has a way back, so that one is named before it is there:
    the foreign key is checked at the end of the transaction, and the hold passes without a gap.
    Raises Refused when the run needs no decision any more.
    """
    way_back.pk = _next_id()
    changed = Run.objects.filter(
        pk=needing.pk, status=RunStatus.NEEDS_ATTENTION, way_back=None
    ).update(way_back=way_back.pk)
    if not changed:
        raise Refused(_("%(run)s no longer needs a decision.") % {"run": needing})
    way_back.save(force_insert=True)


def _next_id() -> int:
    """An id for a new run, from the sequence that gives all the others theirs."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT nextval(pg_get_serial_sequence(%s, 'id'))", [Run._meta.db_table])
        return int(cursor.fetchone()[0])


def _who_holds(target: Target, operation: Operation) -> str:
    holder = Run.objects.holding(target.pk).first()
    if holder is None or not operation.changes_target:
        holder = Run.objects.filter(
            target=target,
            excludes=operation.excludes,
            status__in=RunStatus.active(),
        ).first()
    if holder is None:
        return _("Another run of %(where)s just ended. Try again.") % {"where": target.environment}
    return _("%(run)s (%(title)s) is %(status)s: one run at a time changes %(where)s.") % {
        "run": holder,
        "title": holder.title,
        "status": holder.state.label.lower(),
        "where": target.environment,
    }


def dispatch(run_id: int) -> bool:
    """Send the hint that a run is queued; False when the broker is away.

    That is made up for by the sweeper.
    """
    run = Run.objects.select_related("environment").get(pk=run_id)
    if not send(EXECUTE_RUN, run_id, queue=run.environment.queue):
        return False
    Run.objects.filter(pk=run_id).update(sent_at=Now())
    return True


def claim_run(run_id: int, worker_name: str, token: uuid.UUID | None = None) -> Run | None:
    """Claim a queued run for this worker, in one transaction without network.

    The same token again finds the claim that it made before, and renews its lease; raises FencedOut
    when that has ended. Judges again the gates that were judged at the request. Returns None for a
    duplicate delivery or a refused claim (audited), and for a run that a gate keeps waiting: that
    one stays queued, and the sweeper sends it again.
    """
    with transaction.atomic():
        run = (
            Run.objects.select_for_update(of=("self",))
            .select_related(
                "environment__application",
                "target__environment__application",
                "plan",
                "requested_by",
            )
            .get(pk=run_id)
        )
        if token and run.claim_token == token:
            # An earlier try did it, and only its acknowledgement was lost.
            if run.state not in RunStatus.claimed():
                return None
            renew_lease(run)
            return run
        if run.status != RunStatus.QUEUED:
            audit.record(
                events.DUPLICATE_DELIVERY,
                actor=None,
                run=run,
                outcome=AuditEvent.Outcome.DENIED,
                data=events.DuplicateDelivery(worker=worker_name, status=run.status),
            )
            return None
        try:
            with in_english():
                refusal = _claim_refusal(run)
        except _NotYet:
            return None
        if refusal:
            _change(run, RunStatus.FAILED, **summed(refusal), finished_at=Now(), claim_token=token)
            audit.record(
                events.RUN_REFUSED,
                actor=None,
                run=run,
                reason=str(refusal),
                outcome=AuditEvent.Outcome.DENIED,
            )
            return None
        _change(
            run,
            RunStatus.RUNNING,
            claim_token=token or uuid.uuid4(),
            worker_name=worker_name,
            started_at=Now(),
            lease_expires_at=in_seconds(settings.LEASE_SECONDS),
        )
        audit.record(
            events.RUN_STARTED, actor=None, run=run, data=events.OnWorker(worker=worker_name)
        )
    run.refresh_from_db()
    return run


class _NotYet(Exception):
    """A gate has to be waited for."""


def _claim_refusal(run: Run) -> Text:
    """Why the run may not be claimed, "" when it may. Raises _NotYet when it may not for now."""
    operation = OPERATIONS.get(run.operation)
    if operation is None:
        return say("Refused: this version of the console cannot run %(title)s.", title=run.title)
    try:
        asked = Asked(run.target, run.requested_by, operation.read(run), run.plan)
    except Unreadable as error:
        return say("Refused: what was asked cannot be read: %(why)s.", why=error.text)
    stop = in_the_way(_judged(operation, asked), at_claim=True)
    if stop is None:
        return ""
    if not stop.is_closed:
        raise _NotYet
    return say("Refused: %(why)s", why=stop.why)


def _change(run: Run, status: RunStatus, **fields: object) -> None:
    """One conditional UPDATE from the status and token that `run` was read with."""
    if not is_allowed(run.state, status):
        raise Refused(
            _("%(run)s is %(status)s and cannot become %(next)s.")
            % {"run": run, "status": run.state.label.lower(), "next": status.label.lower()}
        )
    changed = Run.objects.filter(pk=run.pk, status=run.status, claim_token=run.claim_token).update(
        status=status, **fields
    )
    if not changed:
        raise FencedOut(f"run {run.pk} was changed by somebody else")
    run.status = status


def renew_lease(run: Run) -> RunStatus:
    """Renew the lease of a claimed run; returns its status. Raises FencedOut without the claim."""
    changed = Run.objects.filter(
        pk=run.pk,
        claim_token=run.claim_token,
        status__in=RunStatus.claimed(),
        lease_expires_at__gt=Now(),
    ).update(lease_expires_at=in_seconds(settings.LEASE_SECONDS))
    if not changed:
        raise FencedOut(f"the lease of run {run.pk} is gone")
    return current_status(run)


def current_status(run: Run) -> RunStatus:
    """The status in the database now; raises FencedOut if another claim holds the run."""
    row = (
        Run.objects.filter(pk=run.pk, claim_token=run.claim_token)
        .values_list("status", flat=True)
        .first()
    )
    if row is None:
        raise FencedOut(f"run {run.pk} is claimed by somebody else")
    return RunStatus(row)


def save_result(run: Run) -> None:
    """Store `run.result` while holding the claim; raises FencedOut without it."""
    changed = Run.objects.filter(
        pk=run.pk, claim_token=run.claim_token, status__in=RunStatus.claimed()
    ).update(result=run.result)
    if not changed:
        raise FencedOut(f"run {run.pk} is no longer this worker's")


def finish_run(run: Run, status: RunStatus, summary: Text) -> None:
    """End a claimed or lost run with its result; its audit row and its way back go with it.

    Does nothing where it did all of this before, and only its acknowledgement was lost.
    """
    kept = summed(summary)
    with transaction.atomic():
        fresh = Run.objects.select_for_update().get(pk=run.pk)
        if fresh.claim_token != run.claim_token:
            raise FencedOut(f"run {run.pk} is claimed by somebody else")
        run.status = fresh.status
        if (fresh.status, fresh.summary) == (status, kept["summary"]):
            return
        _change(run, status, **kept, result=run.result, finished_at=Now(), lease_expires_at=None)
        _end_open_steps(run, status)
        audit.record(
            events.RUN_ENDED,
            actor=None,
            run=run,
            outcome=AuditEvent.Outcome.OK
            if status in {RunStatus.SUCCEEDED, RunStatus.CANCELLED}
            else AuditEvent.Outcome.ERROR,
            reason=str(summary),
            data=events.RunEnded(status=status, applied=list(run.applied)),
        )
        _end_way_back(run, status)


def _end_open_steps(run: Run, status: RunStatus) -> None:
    ended = {
        RunStatus.CANCELLED: StepStatus.CANCELLED,
        RunStatus.SUCCEEDED: StepStatus.SUCCEEDED,
    }.get(status, StepStatus.FAILED)
    Step.objects.filter(run=run, status=StepStatus.RUNNING).update(status=ended, finished_at=Now())
    Step.objects.filter(run=run, status=StepStatus.PENDING).update(status=StepStatus.SKIPPED)


def _end_way_back(run: Run, status: RunStatus) -> None:
    """Settle the run that this restore was the exit of: rolled back, or still undecided."""
    needing = Run.objects.select_for_update().filter(way_back=run).first()
    if needing is None or status == RunStatus.NEEDS_ATTENTION:
        return
    if status == RunStatus.SUCCEEDED:
        _change(
            needing,
            RunStatus.ROLLED_BACK,
            **summed(
                say("%(before)s Rolled back by run %(run)s.", before=needing.sentence, run=run.pk)
            ),
        )
        audit.record(
            events.RUN_DECIDED,
            actor=run.requested_by,
            run=needing,
            reason=run.reason,
            data=events.RunDecided(status=RunStatus.ROLLED_BACK, by_run=run.pk),
        )
    else:
        Run.objects.filter(pk=needing.pk).update(way_back=None)


def request_cancel(*, actor: User, run: Run, reason: str = "") -> Run:
    """Cancel a queued run at once, ask a running one to stop. Raises Refused when it is over."""
    authorize(actor, "run.cancel", run.environment)
    with transaction.atomic():
        run = Run.objects.select_for_update(of=("self",)).get(pk=run.pk)
        if run.status == RunStatus.CANCELLING:
            return run
        if run.status == RunStatus.QUEUED:
            _change(
                run,
                RunStatus.CANCELLED,
                finished_at=Now(),
                cancel_requested_at=Now(),
                **summed(say("Cancelled before it started. Nothing was changed.")),
            )
            _end_way_back(run, RunStatus.CANCELLED)
        elif run.status == RunStatus.RUNNING:
            _change(run, RunStatus.CANCELLING, cancel_requested_at=Now())
        else:
            raise Refused(
                _("%(run)s is %(status)s; only a queued or running one can be cancelled.")
                % {"run": run, "status": run.state.label.lower()}
            )
        audit.record(events.CANCEL_REQUESTED, actor=actor, run=run, reason=reason)
    return run


def cancel_for_shutdown(run: Run) -> None:
    """Ask a running run to stop because its worker is ending; audited as the console's act."""
    with transaction.atomic():
        changed = Run.objects.filter(
            pk=run.pk, status=RunStatus.RUNNING, claim_token=run.claim_token
        ).update(status=RunStatus.CANCELLING, cancel_requested_at=Now())
        if changed:
            audit.record(
                events.CANCEL_REQUESTED,
                actor=None,
                run=run,
                reason=_("The console is being stopped."),
            )


def decide_run(*, actor: User, run: Run, status: RunStatus, reason: str) -> Run:
    """Settle a run that needs attention, by a person's judgement. Raises Refused otherwise."""
    authorize(actor, "run.decide", run.environment)
    require_reason(reason)
    with transaction.atomic():
        run = Run.objects.select_for_update(of=("self",)).get(pk=run.pk)
        if run.status != RunStatus.NEEDS_ATTENTION or run.way_back_id:
            raise Refused(_("%(run)s no longer needs a decision.") % {"run": run})
        _change(
            run,
            status,
            **summed(
                say(
                    "%(before)s Decided by %(who)s: %(reason)s",
                    before=run.sentence,
                    who=actor,
                    reason=reason,
                )
            ),
        )
        audit.record(
            events.RUN_DECIDED,
            actor=actor,
            run=run,
            reason=reason,
            data=events.RunDecided(status=status),
        )
    return run


def sweep_queued() -> list[int]:
    """Send queued runs again whose message went out too long ago, or never."""
    overdue = in_seconds(-settings.SWEEP_AFTER_SECONDS)
    waiting = Run.objects.filter(status=RunStatus.QUEUED)
    due = [
        *waiting.filter(sent_at__lt=overdue).values_list("pk", flat=True),
        *waiting.filter(
            sent_at=None, created_at__lt=in_seconds(-settings.SCHEDULER_TICK_SECONDS)
        ).values_list("pk", flat=True),
    ]
    sent = []
    for run_id in due:
        if not dispatch(run_id):
            break  # each try may cost seconds that the reaper has better use for
        sent.append(run_id)
    return sent


def reap_expired() -> list[int]:
    """Mark claimed runs lost whose lease ended a while ago; returns their ids."""
    limit = in_seconds(-settings.LEASE_REAP_GRACE_SECONDS)
    reaped = []
    for run in Run.objects.filter(
        status__in=RunStatus.claimed(), lease_expires_at__lt=limit
    ).select_related("environment__application"):
        with transaction.atomic():
            changed = Run.objects.filter(
                pk=run.pk,
                status__in=RunStatus.claimed(),
                claim_token=run.claim_token,
                lease_expires_at__lt=limit,
            ).update(
                status=RunStatus.LOST,
                # The lost worker's token dies here: if it wakes up, it is fenced out.
                claim_token=uuid.uuid4(),
                **summed(
                    say(
                        "The run was lost: its worker no longer reports. The true state is being "
                        "read from the database."
                    )
                ),
            )
            if changed:
                Step.objects.filter(run=run, status=StepStatus.RUNNING).update(
                    status=StepStatus.UNKNOWN, finished_at=Now()
                )
                audit.record(
                    events.RUN_LOST,
                    actor=None,
                    run=run,
                    outcome=AuditEvent.Outcome.ERROR,
                    data=events.OnWorker(worker=run.worker_name),
                )
                reaped.append(run.pk)
    return reaped


def lost_runs() -> list[int]:
    """Ids of the runs whose end is still to be read from evidence."""
    return list(Run.objects.filter(status=RunStatus.LOST).values_list("pk", flat=True))
