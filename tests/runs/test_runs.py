"""Who may request, claim, renew, cancel and decide, and what the database lets happen once."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta

import pytest
from django.db import DatabaseError, connection, connections, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from backups_app.parameters import BackupParameters, ProveParameters, UndoParameters
from migrations_app.parameters import EndSessionParameters
from opsconsole.access.events import SIGN_IN_FAILED, SignInFailed
from opsconsole.events import recording as audit
from opsconsole.events.models import AuditEvent
from opsconsole.exceptions import FencedOut, Kind, Refused
from opsconsole.runs import services as runs
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.gates import Closed, Gate, Waiting
from opsconsole.runs.models import Plan, Run
from opsconsole.runs.registry import OPERATIONS
from opsconsole.runs.transitions import ALLOWED, is_allowed
from opsconsole.work.sending import send_short

# Changes the target, and asks for nothing before.
MIGRATE = EndSessionParameters(pid=1, user="shop", since=None)
BACKUP = BackupParameters()
RESTORE = UndoParameters(replaced=1)


def ask(actor, environment, parameters=MIGRATE, key="", **more) -> Run:
    return runs.request_run(
        actor=actor,
        parameters=parameters,
        target=environment.targets.get(),
        idempotency_key=key or uuid.uuid4().hex,
        **more,
    )


@given(st.lists(st.sampled_from(list(RunStatus)), max_size=12))
def test_no_path_of_allowed_transitions_leaves_a_terminal_status(path):
    status = RunStatus.QUEUED
    for wanted in path:
        if is_allowed(status, wanted):
            assert not status.is_terminal
            status = wanted
    assert set(ALLOWED) == {s for s in RunStatus if not s.is_terminal}


def test_terminal_statuses_are_those_without_a_way_out():
    assert [s for s in RunStatus if s.is_terminal] == [s for s in RunStatus if s not in ALLOWED]


@pytest.mark.parametrize("role", ["viewer", "reviewer"])
def test_request_needs_the_role(environment, person, role):
    with pytest.raises(Refused) as refusal:
        ask(person(role), environment)
    assert refusal.value.kind is Kind.FORBIDDEN
    assert not Run.objects.exists()


def test_same_key_is_the_same_run(environment, operator):
    assert ask(operator, environment, key="a" * 32) == ask(operator, environment, key="a" * 32)
    assert Run.objects.count() == 1


def test_somebody_else_s_key_is_refused(environment, operator, admin):
    ask(operator, environment, BACKUP, key="a" * 32)
    with pytest.raises(Refused):
        ask(admin, environment, BACKUP, key="a" * 32)


@pytest.mark.parametrize("status", RunStatus.holding())
def test_one_run_changes_a_target_in_every_holding_status(environment, operator, status):
    holder = ask(operator, environment)
    Run.objects.filter(pk=holder.pk).update(status=status)
    with pytest.raises(Refused, match="one run at a time changes Shop staging"):
        ask(operator, environment, RESTORE)
    assert Run.objects.count() == 1


@pytest.mark.parametrize("asked", [BACKUP, ProveParameters(backup=1)])
def test_backup_and_verify_stay_possible_while_a_run_needs_attention(environment, operator, asked):
    holder = ask(operator, environment)
    Run.objects.filter(pk=holder.pk).update(status=RunStatus.NEEDS_ATTENTION)
    assert ask(operator, environment, asked).status == RunStatus.QUEUED
    with pytest.raises(Refused):
        ask(operator, environment, asked)


def test_claim_takes_a_queued_run_once_and_audits_the_second(environment, operator):
    run = ask(operator, environment)
    assert runs.claim_run(run.pk, "w1") is not None
    assert runs.claim_run(run.pk, "w2") is None
    run.refresh_from_db()
    assert (run.status, run.worker_name) == (RunStatus.RUNNING, "w1")
    assert AuditEvent.objects.filter(action="run.duplicate_delivery", run=run).count() == 1


def test_claim_is_refused_when_the_right_is_gone(environment, operator):
    run = ask(operator, environment)
    operator.memberships.all().delete()
    assert runs.claim_run(run.pk, "w") is None
    run.refresh_from_db()
    assert (run.status, "no longer has the right" in run.summary) == (RunStatus.FAILED, True)


def test_claim_is_refused_when_the_stored_plan_was_altered(environment, operator):
    content = {"target": ["1", "x"], "history": [], "migrations": [{"name": "a", "checksum": "b"}]}
    plan = Plan.objects.create(
        target=environment.targets.get(), content=content, hash=Plan.hash_of(content)
    )
    run = ask(operator, environment, plan=plan)
    Plan.objects.update(content=content | {"migrations": []})
    assert runs.claim_run(run.pk, "w") is None
    run.refresh_from_db()
    assert "not the one that was confirmed" in run.summary


@dataclass(frozen=True)
class Until(Gate):
    verdict: Waiting | Closed
    name = "until"

    def check(self, now):
        return self.verdict


def with_gate(monkeypatch, verdict) -> None:
    monkeypatch.setattr(type(OPERATIONS["backup"]), "gates", lambda *_: [Until(verdict)])


def test_run_that_a_gate_keeps_waiting_stays_queued_and_is_claimed_once_it_opens(
    environment, operator, monkeypatch
):
    run = ask(operator, environment, BACKUP)
    with monkeypatch.context() as meanwhile:
        with_gate(meanwhile, Waiting("not before Monday"))
        assert runs.claim_run(run.pk, "w") is None
    run.refresh_from_db()
    assert (run.status, run.claim_token) == (RunStatus.QUEUED, None)
    assert not AuditEvent.objects.filter(action="run.refused").exists()
    assert runs.claim_run(run.pk, "w").status == RunStatus.RUNNING


def test_claim_is_refused_when_a_gate_has_closed_meanwhile(environment, operator, monkeypatch):
    run = ask(operator, environment, BACKUP)
    with_gate(monkeypatch, Closed("frozen for the release."))
    assert runs.claim_run(run.pk, "w") is None
    run.refresh_from_db()
    assert (run.status, run.summary) == (RunStatus.FAILED, "Refused: frozen for the release.")


@pytest.mark.parametrize(
    ("verdict", "kind", "field"),
    [
        (Waiting("not before Monday"), Kind.CONFLICT, ""),
        (Closed("frozen"), Kind.CONFLICT, ""),
        (Closed("say who knows", field="note"), Kind.INVALID, "note"),
    ],
)
def test_request_is_refused_by_a_gate_that_is_not_open(
    environment, operator, monkeypatch, verdict, kind, field
):
    with_gate(monkeypatch, verdict)
    with pytest.raises(Refused, match=verdict.why) as refusal:
        ask(operator, environment, BACKUP)
    assert (refusal.value.kind, refusal.value.field) == (kind, field)
    assert not Run.objects.exists()


def claimed(environment, operator) -> Run:
    run = runs.claim_run(ask(operator, environment).pk, "w")
    assert run is not None
    return run


def test_lease_is_renewed_only_with_the_token(environment, operator):
    run = claimed(environment, operator)
    assert runs.renew_lease(run) == RunStatus.RUNNING
    run.refresh_from_db()
    until = run.lease_expires_at
    run.claim_token = uuid.uuid4()
    with pytest.raises(FencedOut):
        runs.renew_lease(run)
    assert Run.objects.get(pk=run.pk).lease_expires_at == until
    with pytest.raises(FencedOut):
        runs.current_status(run)
    with pytest.raises(FencedOut):
        runs.save_result(run)
    with pytest.raises(FencedOut):
        runs.finish_run(run, RunStatus.SUCCEEDED, "")


def test_expired_lease_is_lost_and_its_worker_fenced_out(environment, operator):
    run = claimed(environment, operator)
    Run.objects.filter(pk=run.pk).update(lease_expires_at=timezone.now() - timedelta(minutes=5))
    assert runs.reap_expired() == [run.pk]
    assert runs.reap_expired() == []
    assert runs.lost_runs() == [run.pk]
    with pytest.raises(FencedOut):
        runs.finish_run(run, RunStatus.SUCCEEDED, "")


def test_lease_that_ended_is_not_renewed(environment, operator):
    run = claimed(environment, operator)
    ended = timezone.now() - timedelta(seconds=1)
    Run.objects.filter(pk=run.pk).update(lease_expires_at=ended)
    with pytest.raises(FencedOut):
        runs.renew_lease(run)
    assert Run.objects.get(pk=run.pk).lease_expires_at == ended


def test_lease_renewed_while_another_is_reaped_is_kept(
    environment, make_environment, operator, monkeypatch
):
    claimed(environment, operator)
    claimed(make_environment("production", position=2), operator)
    now = timezone.now()
    Run.objects.update(lease_expires_at=now - timedelta(hours=1))

    def renew_the_others(event, row):
        Run.objects.exclude(pk=row.run_id).update(lease_expires_at=now + timedelta(hours=1))

    monkeypatch.setattr(audit, "LISTENERS", [renew_the_others])
    reaped = runs.reap_expired()
    assert len(reaped) == 1
    assert Run.objects.exclude(pk__in=reaped).get().status == RunStatus.RUNNING


def test_lease_that_just_ended_is_not_reaped_yet(environment, operator):
    run = claimed(environment, operator)
    Run.objects.filter(pk=run.pk).update(lease_expires_at=timezone.now())
    assert runs.reap_expired() == []


def test_queued_run_is_cancelled_at_once(environment, operator):
    run = runs.request_cancel(actor=operator, run=ask(operator, environment))
    assert run.status == RunStatus.CANCELLED
    with pytest.raises(Refused):
        runs.request_cancel(actor=operator, run=run)


def test_running_run_is_asked_to_stop_and_twice_is_once(environment, operator):
    run = claimed(environment, operator)
    assert runs.request_cancel(actor=operator, run=run).status == RunStatus.CANCELLING
    assert runs.request_cancel(actor=operator, run=run).status == RunStatus.CANCELLING
    assert AuditEvent.objects.filter(action="run.cancel_requested").count() == 1


def test_stopping_worker_cancels_its_run_as_the_console(environment, operator):
    run = claimed(environment, operator)
    runs.cancel_for_shutdown(run)
    runs.cancel_for_shutdown(run)
    assert runs.current_status(run) == RunStatus.CANCELLING
    assert AuditEvent.objects.get(action="run.cancel_requested").actor is None


def needing(environment, operator) -> Run:
    run = claimed(environment, operator)
    runs.finish_run(run, RunStatus.NEEDS_ATTENTION, "look")
    return run


def test_decision_needs_a_reason_and_happens_once(environment, operator):
    run = needing(environment, operator)
    with pytest.raises(Refused) as refusal:
        runs.decide_run(actor=operator, run=run, status=RunStatus.FAILED, reason=" ")
    assert refusal.value.kind is Kind.INVALID
    decided = runs.decide_run(actor=operator, run=run, status=RunStatus.FAILED, reason="seen")
    assert decided.status == RunStatus.FAILED
    with pytest.raises(Refused):
        runs.decide_run(actor=operator, run=run, status=RunStatus.FAILED, reason="again")


def test_way_back_holds_the_target_and_its_failure_leaves_the_decision_open(environment, operator):
    run = needing(environment, operator)
    back = ask(operator, environment, RESTORE, way_back_of=run)
    run.refresh_from_db()
    assert (back.status, run.way_back) == (RunStatus.QUEUED, back)
    with pytest.raises(Refused):
        ask(operator, environment)
    taken = runs.claim_run(back.pk, "w")
    runs.finish_run(taken, RunStatus.FAILED, "no")
    run.refresh_from_db()
    assert (run.status, run.way_back) == (RunStatus.NEEDS_ATTENTION, None)


def test_way_back_is_never_anything_but_queued_before_it_is_claimed(environment, operator):
    run = needing(environment, operator)
    with CaptureQueriesContext(connection) as queries:
        back = ask(operator, environment, RESTORE, way_back_of=run)
    written = [q["sql"] for q in queries if q["sql"].startswith(("INSERT", "UPDATE"))]
    statuses = [
        s for s in RunStatus if any(f"'{s}'" in q and '"opsconsole_run"' in q for q in written)
    ]
    # The other one is the condition under which the hold passes.
    assert statuses == [RunStatus.QUEUED, RunStatus.NEEDS_ATTENTION]
    assert ask(operator, environment, BACKUP).pk > back.pk


def test_of_two_ways_back_at_once_one_is_taken_and_the_other_refused(
    transactional_db, environment, operator
):
    run = needing(environment, operator)

    def take(_number: int) -> str:
        try:
            ask(operator, environment, RESTORE, way_back_of=run)
        except Refused as refusal:
            return str(refusal)
        finally:
            connections.close_all()
        return ""

    with ThreadPoolExecutor(4) as pool:
        answers = sorted(pool.map(take, range(4)))
    assert answers == ["", *[f"{run} no longer needs a decision."] * 3]
    run.refresh_from_db()
    assert Run.objects.get(status=RunStatus.QUEUED) == run.way_back


def test_way_back_that_succeeds_makes_the_run_rolled_back(environment, operator):
    run = needing(environment, operator)
    back = ask(operator, environment, RESTORE, way_back_of=run)
    runs.finish_run(runs.claim_run(back.pk, "w"), RunStatus.SUCCEEDED, "done")
    run.refresh_from_db()
    assert run.status == RunStatus.ROLLED_BACK


def test_second_way_back_is_refused(environment, operator):
    run = needing(environment, operator)
    ask(operator, environment, RESTORE, way_back_of=run)
    with pytest.raises(Refused):
        ask(operator, environment, RESTORE, way_back_of=run)


def test_sweeper_sends_again_what_was_sent_long_ago(environment, operator, monkeypatch):
    sent: list[int] = []
    run = ask(operator, environment)
    Run.objects.filter(pk=run.pk).update(sent_at=timezone.now() - timedelta(minutes=5))
    monkeypatch.setattr(runs, "send", lambda _task, run_id, queue: not sent.append(run_id))
    assert runs.sweep_queued() == [run.pk]
    assert sent == [run.pk]


def test_sweeper_asks_a_broker_that_is_away_once(environment, operator, monkeypatch):
    asked: list[int] = []
    queued = [ask(operator, environment, kind).pk for kind in (MIGRATE, BACKUP)]
    Run.objects.filter(pk__in=queued).update(sent_at=timezone.now() - timedelta(minutes=5))
    monkeypatch.setattr(runs, "send", lambda _task, run_id, queue: asked.append(run_id))
    assert runs.sweep_queued() == []
    assert len(asked) == 1


def test_broker_that_is_down_leaves_the_run_to_the_sweeper(environment, operator, settings):
    from celery import current_app

    run = ask(operator, environment)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(current_app, "send_task", lambda *_a, **_k: 1 / 0)
        runs.dispatch(run.pk)
        assert send_short("x", 1) is False
    run.refresh_from_db()
    assert (run.status, run.sent_at) == (RunStatus.QUEUED, None)


@pytest.mark.django_db
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE opsconsole_auditevent SET reason = 'x'",
        "DELETE FROM opsconsole_auditevent",
        "TRUNCATE opsconsole_auditevent",
    ],
)
def test_audit_trail_takes_inserts_only(statement):
    audit.record(SIGN_IN_FAILED, actor=None, data=SignInFailed(username="x"))
    with pytest.raises(DatabaseError, match="inserts only"), transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(statement)
    assert AuditEvent.objects.filter(action=SIGN_IN_FAILED.key).count() == 1


def test_action_whose_audit_row_cannot_be_written_is_refused(environment, operator):
    with connection.cursor() as cursor:
        cursor.execute(
            "ALTER TABLE opsconsole_auditevent ADD CONSTRAINT nope CHECK (false) NOT VALID"
        )
    with pytest.raises(Refused) as refusal:
        ask(operator, environment)
    assert refusal.value.kind is Kind.UNAVAILABLE
    assert not Run.objects.exists()


def test_two_workers_that_claim_at_once_get_one_run(transactional_db, environment, operator):
    run = ask(operator, environment)

    def claim(name: str) -> Run | None:
        try:
            return runs.claim_run(run.pk, name)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(claim, [f"w{n}" for n in range(8)]))
    assert sum(found is not None for found in claims) == 1
    assert AuditEvent.objects.filter(action="run.duplicate_delivery", run=run).count() == 7
