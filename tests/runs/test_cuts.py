"""A run survives that its connections to the console's database are cut, whatever they write."""

from __future__ import annotations

import os
import threading
import time
import uuid
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from backups_app.parameters import BackupParameters
from opsconsole.clock import in_seconds
from opsconsole.events.models import AuditEvent
from opsconsole.exceptions import FencedOut
from opsconsole.runs import executor, reporting
from opsconsole.runs import services as runs
from opsconsole.runs.backlog import Backlog
from opsconsole.runs.choices import RunStatus, StepStatus
from opsconsole.runs.lease import LeaseKeeper
from opsconsole.runs.models import LogChunk, Run
from opsconsole.runs.patience import Lease, patiently, surviving
from opsconsole.runs.recorder import Recorder
from opsconsole.runs.step import Promise, RunContext, Step
from opsconsole.runs.workers import Worker
from opsconsole.targets.dsn import Dsn
from opsconsole.targets.server import TargetLock
from tests.conftest import log_of, superuser
from tests.runs.cutting import POINTS, cut_all, cut_once, cutting, locked

each_point = pytest.mark.parametrize("point", list(POINTS))


@pytest.fixture
def queued(transactional_db, environment, operator) -> Run:
    return runs.request_run(
        actor=operator,
        parameters=BackupParameters(),
        target=environment.targets.get(),
        idempotency_key=uuid.uuid4().hex,
    )


@pytest.fixture
def run(queued) -> Run:
    claimed = runs.claim_run(queued.pk, "w")
    assert claimed is not None
    return claimed


def numbers(run: Run) -> list[int]:
    return [line.number for line in run.log_chunks.read_lines()]


@each_point
def test_line_whose_write_is_cut_is_stored_once(run, point):
    recorder = Recorder(run)
    recorder.log("one")
    with cut_once("INSERT", point, "opsconsole_logchunk"):
        recorder.flush()
    recorder.log("two")
    recorder.flush()
    assert log_of(run) == "one\ntwo"
    assert numbers(run) == [1, 2]


def test_line_after_a_cut_is_stored(run):
    recorder = Recorder(run)
    recorder.log("one")
    recorder.flush()
    cut_all()
    recorder.log("two")
    recorder.flush()
    assert log_of(run) == "one\ntwo"


@pytest.mark.parametrize("differs", ["claim", "lines"])
def test_lines_that_somebody_else_stored_are_fencing(run, differs, monkeypatch):
    recorder = Recorder(run)
    monkeypatch.setattr(time, "time", lambda: 5.0)
    recorder.log("one")
    token = uuid.uuid4() if differs == "claim" else run.claim_token
    Run.objects.filter(pk=run.pk).update(log_seq=1, claim_token=token)
    lines = [[5.0, "", "one" if differs == "claim" else "another"]]
    chunk = LogChunk.objects.create(run=run, first_seq=1, last_seq=1, lines=lines)
    with pytest.raises(FencedOut):
        recorder.flush()
    assert list(LogChunk.objects.all()) == [chunk]


def test_no_line_is_lost_while_connections_are_cut_again_and_again(run, settings):
    settings.LOG_FLUSH_SECONDS = 0.01
    with cutting(0.05), Recorder(run) as recorder:
        for number in range(1, 501):
            recorder.log(f"line {number}")
            time.sleep(0.002)
    connection.close()
    assert log_of(run).splitlines() == [f"line {number}" for number in range(1, 501)]
    assert numbers(run) == list(range(1, 501))


def test_who_logs_does_not_wait_for_the_database(run):
    with Recorder(run) as recorder:
        with locked("opsconsole_logchunk"):
            began = time.monotonic()
            for number in range(3000):
                recorder.log(f"line {number}")
            assert time.monotonic() - began < 1
    assert numbers(run) == list(range(1, 3001))


def files_of_worker() -> list[tuple[str, int]]:
    """The files without a name that this process has open, with their modes."""
    names = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    links = [(os.readlink(name), name) for name in names if os.path.exists(name)]
    return [(link, os.stat(name).st_mode & 0o777) for link, name in links if "(deleted)" in link]


def test_lines_beyond_the_memory_wait_in_a_private_file_and_keep_their_order(
    run, settings, tmp_path
):
    settings.LOG_MEMORY_BYTES, settings.LOG_SPILL_FOLDER = 2000, tmp_path / "spill"
    with Recorder(run, ["hunter2"]) as recorder:
        for _round in range(2):
            with locked("opsconsole_logchunk"):
                for number in range(5000):
                    recorder.log(f"line {number} of hunter2 – “ünïcode” \\ \r")
                found = [each for each in files_of_worker() if str(tmp_path) in each[0]]
                assert [mode for _name, mode in found] == [0o600]
            recorder.flush()
    assert list((tmp_path / "spill").iterdir()) == []
    assert [each for each in files_of_worker() if str(tmp_path) in each[0]] == []
    once = [f"line {number} of ••• – “ünïcode” \\ " for number in range(5000)]
    assert log_of(run).splitlines() == once * 2


@pytest.mark.parametrize("has_folder", [True, False])
def test_log_says_where_lines_were_dropped_and_how_many(run, settings, tmp_path, has_folder):
    (tmp_path / "file").write_text("")
    settings.LOG_SPILL_FOLDER = tmp_path if has_folder else tmp_path / "file"
    settings.LOG_MEMORY_BYTES, settings.LOG_SPILL_BYTES = 5000, 5000
    with Recorder(run) as recorder:
        with locked("opsconsole_logchunk"):
            for number in range(1000):
                recorder.log(f"line {number}")
        recorder.flush()
        recorder.log("after")
    *kept, told, after = log_of(run).splitlines()
    assert kept == [f"line {number}" for number in range(len(kept))]
    assert 40 < len(kept) < 1000
    assert told == (
        f"{1000 - len(kept)} lines were dropped here: the console's database was away or too "
        "slow, and the worker could set aside no more"
    )
    assert after == "after"


def test_disk_that_fills_up_takes_the_lines_that_fit(tmp_path, monkeypatch):
    """In memory is no room for any; the third line is written in part only."""
    write, lines = os.pwrite, [(0.0, "", text) for text in ("one", "two", "three", "four")]
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: write(file, data[:40], at))
    backlog = Backlog(tmp_path, 0, 10_000)
    backlog.add(lines)
    assert len(backlog) == len(lines)
    *kept, (_at, tone, told) = backlog.take(10, 10_000)
    assert (kept, tone) == (lines[:2], "no")
    assert told.startswith("2 lines were dropped here")
    backlog.add(lines[:1])
    assert backlog.take(10, 10_000) == lines[:1]
    backlog.close()


@each_point
def test_steps_survive_a_cut(run, point):
    recorder = Recorder(run)
    with cut_once("INSERT", point, "opsconsole_step"):
        recorder.plan_steps(["backup", "prove"])
    with cut_once("UPDATE", point, "opsconsole_step"):
        recorder.begin_step("backup")
    with cut_once("UPDATE", point, "opsconsole_step"):
        recorder.end_step(StepStatus.FAILED, "no space")
    with cut_once("UPDATE", point, "opsconsole_step"):
        recorder.skip_pending()
    assert list(run.steps.values_list("name", "status", "summary")) == [
        ("backup", StepStatus.FAILED, "no space"),
        ("prove", StepStatus.SKIPPED, ""),
    ]


def test_step_of_a_lost_claim_is_left_alone(run):
    recorder = Recorder(run)
    recorder.plan_steps(["backup"])
    recorder.begin_step("backup")
    Run.objects.filter(pk=run.pk).update(claim_token=uuid.uuid4())
    with pytest.raises(FencedOut):
        recorder.end_step(StepStatus.SUCCEEDED, "")
    assert run.steps.get().status == StepStatus.RUNNING


def events_of(run: Run) -> list[str]:
    found = AuditEvent.objects.filter(run=run).order_by("pk")
    return list(found.values_list("action", flat=True))


@pytest.mark.parametrize(
    ("event", "table", "point"),
    [
        *(("UPDATE", "opsconsole_run", point) for point in POINTS),
        ("INSERT", "opsconsole_auditevent", "while it is written"),
    ],
)
def test_run_ends_once_when_its_end_is_cut(run, event, table, point):
    run.result = {"ways": []}
    with surviving(Lease()):
        with cut_once(event, point, table):
            executor._end(run, RunStatus.SUCCEEDED, "Done.")
    run.refresh_from_db()
    assert (run.status, run.summary, run.result) == (RunStatus.SUCCEEDED, "Done.", {"ways": []})
    assert events_of(run) == ["run.requested", "run.started", "run.ended"]


def test_result_survives_a_cut(run):
    run.result = {"ways": []}
    with surviving(Lease()), cut_once("UPDATE", "before it is committed", "opsconsole_run"):
        patiently(lambda: runs.save_result(run))
    run.refresh_from_db()
    assert run.result == {"ways": []}


@each_point
def test_claim_that_is_cut_is_the_worker_s_own(queued, point):
    with cut_once("UPDATE", point, "opsconsole_run"):
        claimed, _lease = executor._claim(queued.pk, "w")
    queued.refresh_from_db()
    assert (claimed.claim_token, claimed.status) == (queued.claim_token, RunStatus.RUNNING)
    assert events_of(queued) == ["run.requested", "run.started"]


def test_read_survives_a_cut(run):
    with surviving(Lease()):
        cut_all()
        assert Run.objects.get(pk=run.pk) == run


def test_worker_is_fenced_once_the_database_was_away_for_a_lease(transactional_db, settings):
    settings.LEASE_SECONDS = 0.5

    def cut_itself() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    began = time.monotonic()
    with pytest.raises(FencedOut, match="database is away"):
        Lease().patiently(cut_itself)
    assert 0.5 < time.monotonic() - began < 3


def test_cut_costs_the_lease_keeper_a_try_and_no_renewal(run, settings):
    settings.CANCEL_POLL_SECONDS, settings.LEASE_RENEW_SECONDS = 0.6, 0
    context = RunContext(run, None, None, None, Recorder(run))
    with LeaseKeeper(context, None):
        time.sleep(0.7)
        cut_all()
        connection.close()
        before = Run.objects.get(pk=run.pk).lease_expires_at
        # The next try fails, after 1.2 s; the one after that would be due after 1.8 s.
        time.sleep(0.8)
        assert Run.objects.get(pk=run.pk).lease_expires_at > before
    context.check()


def test_run_is_fenced_in_time_while_the_database_does_not_answer(run, settings):
    settings.LEASE_SECONDS, settings.CANCEL_POLL_SECONDS = 0.6, 0.1
    context = RunContext(run, None, None, None, Recorder(run))
    with LeaseKeeper(context, None), locked("opsconsole_run"):
        time.sleep(0.4)
        context.check()
        time.sleep(0.5)
        with pytest.raises(FencedOut, match="database is away"):
            context.check()


def test_log_says_that_it_was_the_session_on_the_server_that_was_lost(run, settings, database):
    settings.LEASE_RENEW_SECONDS, settings.CANCEL_POLL_SECONDS = 0, 0.05
    lock = TargetLock(Dsn.parse(database()), "t")
    lock.acquire()
    with Recorder(run) as recorder:
        context = RunContext(run, None, None, None, recorder)
        with LeaseKeeper(context, lock):
            context.check()
            with superuser() as connected:
                pid = lock.connection.info.backend_pid
                connected.execute("SELECT pg_terminate_backend(%s)", [pid])
            deadline = time.monotonic() + 5
            while not context.is_stopping and time.monotonic() < deadline:
                time.sleep(0.02)
    with pytest.raises(FencedOut, match="lock on the target was lost"):
        context.check()
    assert log_of(run).startswith("stopped: the lock on the target was lost: ")


def test_lease_is_kept_while_the_state_of_the_target_is_read(run, settings, monkeypatch):
    settings.LEASE_RENEW_SECONDS, settings.CANCEL_POLL_SECONDS = 0.1, 0.05
    monkeypatch.setattr(executor, "STATE_READERS", [lambda _run: time.sleep(0.5)])
    before = Run.objects.get(pk=run.pk).lease_expires_at
    executor._read_state(RunContext(run, None, None, None, Recorder(run)))
    assert Run.objects.get(pk=run.pk).lease_expires_at - before > timedelta(seconds=0.3)


def test_write_is_repeated_after_a_server_that_only_reads(run):
    recorder = Recorder(run)
    recorder.log("one")
    with connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = on")
    try:
        recorder.flush()
    finally:
        connection.close()
    assert log_of(run) == "one"


class Unguarded(Step):
    """Writes to the console's database without patience."""

    name = "unguarded"

    def promise(self, environment, parameters) -> Promise:
        return Promise("")

    def run(self, context) -> str:
        with connection.cursor() as cursor:
            cursor.execute("CALL cut()")
        return ""


def test_cut_that_a_step_does_not_survive_is_no_failure_of_the_step(run):
    with superuser(connection.settings_dict["NAME"]) as other:
        other.execute(
            "CREATE PROCEDURE cut() LANGUAGE sql AS 'SELECT pg_terminate_backend(pg_backend_pid())'"
        )
    context = RunContext(run, None, None, None, Recorder(run))
    context.recorder.plan_steps(["unguarded"])
    try:
        with pytest.raises(FencedOut, match="database is away"):
            executor._run_step(context, Unguarded())
    finally:
        connection.close()
    assert run.steps.get().status == StepStatus.RUNNING


@pytest.mark.parametrize("seconds", [5, -5])
def test_claim_found_again_counts_from_when_it_was_found(queued, seconds):
    token = uuid.uuid4()
    assert runs.claim_run(queued.pk, "w", token)
    Run.objects.filter(pk=queued.pk).update(lease_expires_at=in_seconds(seconds))
    if seconds < 0:
        with pytest.raises(FencedOut):
            runs.claim_run(queued.pk, "w", token)
        return
    assert runs.claim_run(queued.pk, "w", token)
    left = Run.objects.get(pk=queued.pk).lease_expires_at - timezone.now()
    assert left > timedelta(seconds=20)


def test_worker_that_begins_while_the_database_is_away_reports_itself_later(
    transactional_db, settings
):
    settings.WORKER_SEEN_SECONDS = 0.05
    reporting._closing.clear()
    report = threading.Thread(target=reporting._report, args=[["runs"]])
    with cut_once("INSERT", "while it is written", "opsconsole_worker"):
        report.start()
    deadline = time.monotonic() + 5
    while not Worker.objects.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    reporting._closing.set()
    report.join()
    reporting._closing.clear()
    assert Worker.objects.get().queues == ["runs"]


def test_refused_claim_whose_acknowledgement_was_lost_is_no_duplicate(queued, operator):
    operator.memberships.all().delete()
    with cut_once("UPDATE", "after it was committed", "opsconsole_run"):
        assert executor._claim(queued.pk, "w") is None
    assert events_of(queued) == ["run.requested", "run.refused"]
