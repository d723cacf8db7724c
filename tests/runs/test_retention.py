"""Logs go by the partition: which are dropped and which are not, and what their readers see."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Callable

import pytest
from django.core.management import call_command
from django.db import IntegrityError, OperationalError, connection, transaction
from django.db.migrations.executor import MigrationExecutor
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from opsconsole.clock import months_ago
from opsconsole.environments.models import Application, Environment, Target
from opsconsole.events.models import AuditEvent
from opsconsole.runs import retention
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.models import DeletedLogs, LogChunk, Run
from opsconsole.runs.recorder import Recorder
from opsconsole.runs.retention import delete_old_logs, part_log, partitions
from tests.conftest import log_of
from tests.runs.cutting import locked
from tests.threads import at_once

BEFORE = ("opsconsole", "0020_find_among_a_million")
LONG_AGO = 14


@pytest.fixture(autouse=True)
def _kept_for_a_year(settings, monkeypatch) -> None:
    settings.LOG_MONTHS = 12
    # Autovacuum is in the way of a lock for as long as it takes to notice, which is longer.
    monkeypatch.setattr(retention, "LOCK_WAIT", "20s")


@pytest.fixture
def made(db) -> Callable[..., Run]:
    """`made(14)` is a run that ended 14 months ago, with two lines of log."""
    application = Application.objects.create(slug="shop", name="Shop")
    environment = Environment.objects.create(
        application=application, slug="staging", name="Staging", position=1
    )
    target = Target.objects.create(environment=environment, dsn_reference="env:NOWHERE")

    def make(months: int, status: RunStatus = RunStatus.SUCCEEDED, **fields) -> Run:
        run = Run.objects.create(
            operation="backup",
            kind="backup",
            environment=environment,
            target=target,
            status=status,
            idempotency_key=uuid.uuid4().hex,
            log_seq=2,
            claim_token=uuid.uuid4(),
        )
        times = {"created_at": months_ago(months), "finished_at": months_ago(months)}
        Run.objects.filter(pk=run.pk).update(**times | fields)
        store(run)
        run.refresh_from_db()
        return run

    return make


def store(run: Run, first: int = 1) -> None:
    lines = [[0, "", "one"], [1, "", "two"]]
    LogChunk.objects.create(run=run, first_seq=first, last_seq=first + 1, lines=lines)
    # As a commit does: no table is altered while keys of its rows wait to be looked at.
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")


@pytest.fixture
def whole_again(transactional_db):
    """The table has one partition when the test is over: nothing takes back what it commits."""
    yield
    with connection.cursor() as cursor:
        for partition in partitions():
            cursor.execute(f'DROP TABLE "{partition.name}"')
        cursor.execute(
            "CREATE TABLE opsconsole_logchunk_0 PARTITION OF opsconsole_logchunk"
            " FOR VALUES FROM (MINVALUE) TO (MAXVALUE)"
        )


def tend() -> None:
    part_log()
    delete_old_logs()


def has_log(run: Run) -> bool:
    return [line.text for line in run.log_chunks.read_lines()] == ["one", "two"]


def deletions() -> list[str]:
    found = AuditEvent.objects.filter(action="run.logs_deleted").order_by("id")
    return list(found.values_list("sentence", flat=True))


# -- what is dropped, and what is not


def test_logs_are_deleted_when_the_last_of_their_runs_ended_longer_ago_than_they_are_kept(made):
    runs = [made(LONG_AGO), made(13)]
    part_log()
    younger = made(0)
    delete_old_logs()
    assert [has_log(run) for run in [*runs, younger]] == [False, False, True]
    assert Run.objects.filter(pk__in=[run.pk for run in runs]).count() == 2
    (deleted,) = DeletedLogs.objects.all()
    assert (deleted.end_run, deleted.kept_months) == (runs[-1].pk + 1, 12)
    (told,) = deletions()
    assert told == (
        f"The logs of runs {deleted.first_run} to {runs[-1].pk} were deleted: logs are kept for "
        "12 months after the last of these runs has ended."
    )


@pytest.mark.parametrize(
    "other",
    [
        {"months": 11},
        {"months": LONG_AGO, "status": RunStatus.RUNNING, "finished_at": None},
        {"months": LONG_AGO, "status": RunStatus.QUEUED, "finished_at": None},
        {"months": LONG_AGO, "status": RunStatus.LOST, "finished_at": None},
        {"months": LONG_AGO, "status": RunStatus.NEEDS_ATTENTION},
        {"months": LONG_AGO, "finished_at": months_ago(11)},
    ],
    ids=["younger", "running", "queued", "lost", "undecided", "begun long ago, ended lately"],
)
def test_logs_are_kept_beside_that_of_a_run_that_has_not_ended_so_long_ago(made, other):
    runs = [made(LONG_AGO), made(**other), made(LONG_AGO)]
    tend()
    assert len(partitions()) == 2
    assert [has_log(run) for run in runs] == [True] * 3
    assert (deletions(), DeletedLogs.objects.exists()) == ([], False)


@pytest.mark.parametrize(
    "status",
    [status for status in RunStatus if status.is_terminal],
    ids=lambda status: status.value,
)
def test_a_run_that_ended_in_any_way_keeps_no_log_for_ever(made, status):
    run = made(LONG_AGO, status, finished_at=None)
    tend()
    assert not has_log(run)


def test_logs_are_kept_for_ever_unless_a_number_of_months_is_set(made, settings):
    settings.LOG_MONTHS = 0
    run = made(LONG_AGO)
    tend()
    assert len(partitions()) == 2
    assert has_log(run)


def test_a_partition_between_others_goes_by_its_own_runs(made):
    held = made(LONG_AGO, RunStatus.NEEDS_ATTENTION)
    part_log()
    between = made(LONG_AGO)
    tend()
    assert [has_log(held), has_log(between)] == [True, False]
    (deleted,) = DeletedLogs.objects.all()
    assert (deleted.first_run, deleted.end_run) == (held.pk + 1, between.pk + 1)
    assert (held.told_of_deleted_log(), bool(between.told_of_deleted_log())) == ("", True)


def test_deletion_that_is_not_recorded_does_not_happen(made, monkeypatch):
    run = made(LONG_AGO)
    part_log()

    def refuse(*_arguments, **_about):
        raise RuntimeError("the audit trail takes nothing")

    monkeypatch.setattr(retention.audit, "record", refuse)
    with pytest.raises(RuntimeError):
        delete_old_logs()
    assert has_log(run)
    assert not DeletedLogs.objects.exists()


# -- again, and two at once


def test_tending_again_changes_nothing(made):
    made(LONG_AGO)
    tend()
    made(0)
    before = partitions(), deletions()
    for _time in range(3):
        tend()
    assert (partitions(), deletions()) == before


def test_partition_is_begun_only_when_the_newest_holds_the_runs_of_a_month(made):
    made(0)
    part_log()
    assert len(partitions()) == 1
    first = made(2)
    part_log()
    assert len(partitions()) == 1, "the first run says how old it is"
    Run.objects.filter(pk__lt=first.pk).update(created_at=months_ago(2))
    part_log()
    assert [each.end for each in partitions()] == [first.pk + 1, None]


@pytest.mark.usefixtures("whole_again")
def test_two_at_once_part_and_delete_once(made):
    run = made(LONG_AGO)
    assert at_once(part_log, part_log) == []
    assert len(partitions()) == 2
    assert at_once(delete_old_logs, delete_old_logs) == []
    assert not has_log(run)
    assert len(deletions()) == DeletedLogs.objects.count() == 1


@pytest.mark.usefixtures("whole_again")
@pytest.mark.parametrize("table", ["opsconsole_run", "opsconsole_logchunk"])
def test_table_that_is_in_use_is_left_for_the_next_time(made, table, monkeypatch):
    run = made(LONG_AGO)
    before = partitions()
    with locked(table, "ROW EXCLUSIVE"), monkeypatch.context() as patch:
        patch.setattr(retention, "LOCK_WAIT", "500ms")
        began = timezone.now()
        part_log()
        assert (timezone.now() - began).total_seconds() < 5
    assert partitions() == before
    part_log()
    with locked(table, "ROW EXCLUSIVE"), monkeypatch.context() as patch:
        patch.setattr(retention, "LOCK_WAIT", "500ms")
        delete_old_logs()
    assert has_log(run)
    delete_old_logs()
    assert not has_log(run)


def test_database_that_is_away_is_no_lock_that_is_waited_for(made, monkeypatch):
    made(LONG_AGO)

    def away(_mode):
        raise OperationalError("the server closed the connection")

    monkeypatch.setattr(retention, "_alone", away)
    with pytest.raises(OperationalError):
        part_log()


# -- storing


def test_lines_are_stored_though_the_table_was_not_parted_for_years(made):
    made(LONG_AGO)
    tend()
    runs = [made(10), made(5), made(0)]
    assert [has_log(run) for run in runs] == [True] * 3


def test_recorder_goes_on_across_the_end_of_its_partition(made):
    made(2)
    run = made(0, RunStatus.RUNNING, finished_at=None)
    recorder = Recorder(run)
    recorder.log("before")
    recorder.flush()
    part_log()
    assert len(partitions()) == 2
    recorder.log("after")
    recorder.flush()
    assert log_of(run).splitlines() == ["one", "two", "before", "after"]
    run.delete()
    assert not LogChunk.objects.filter(run_id=run.pk).exists()


def test_lines_are_stored_once_and_of_a_run_that_exists(made):
    run = made(LONG_AGO)
    part_log()
    for about in [{"run": run}, {"run_id": run.pk + 1000}]:
        with pytest.raises(IntegrityError), transaction.atomic():
            LogChunk.objects.create(**about, first_seq=1, last_seq=1, lines=[])


# -- reading


@pytest.mark.parametrize("which", [0, 1, 2])
def test_reading_asks_once_and_touches_the_run_s_partition_only(made, which):
    runs = []
    for _month in range(3):
        runs.append(made(2))
        part_log()
    own = partitions()[which]
    with CaptureQueriesContext(connection) as asked:
        assert has_log(runs[which])
    (query,) = asked.captured_queries
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {query['sql']}")
        plan = "\n".join(row[0] for row in cursor.fetchall())
    assert {each.name for each in partitions() if f" on {each.name} " in plan} == {own.name}


@pytest.fixture
def gone(made) -> Run:
    run = made(LONG_AGO)
    tend()
    DeletedLogs.objects.update(deleted_at="2027-11-03T12:00:00Z")
    return run


TOLD = "Its log was deleted on 3 Nov 2027: logs are kept for 12 months."


def test_page_says_that_the_log_was_deleted_and_does_not_ask_for_more(gone, as_role):
    client = as_role("viewer")
    page = client.get(reverse("run", args=[gone.pk])).content.decode()
    log = page.partition('id="log"')[2]
    assert TOLD in log
    assert "hx-get" not in log.partition("</section>")[0]
    tail = client.get(reverse("run-log", args=[gone.pk]), {"after": 1}).content.decode()
    assert TOLD in tail
    assert "hx-get" not in tail


def test_page_of_a_run_that_printed_nothing_says_that(made, as_role):
    run = made(LONG_AGO)
    Run.objects.update(log_seq=0)
    tend()
    page = as_role("viewer").get(reverse("run", args=[run.pk])).content.decode()
    assert "It printed nothing." in page
    assert "was deleted" not in page


def test_download_says_that_the_log_was_deleted(gone, as_role):
    answer = as_role("viewer").get(reverse("run-log-download", args=[gone.pk]))
    assert answer.content.decode() == f"{TOLD}\n"


@pytest.mark.parametrize("extra", [[], ["--json"]], ids=["text", "json"])
def test_ops_run_says_that_the_log_was_deleted(gone, admin, extra):
    out = io.StringIO()
    with pytest.raises(SystemExit) as end:
        call_command("ops", "run", str(gone.pk), "--log", *extra, stdout=out)
    assert not end.value.code
    if extra:
        said = json.loads(out.getvalue())
        assert (said["log"], said["log_deleted"]) == ([], TOLD)
    else:
        assert out.getvalue().strip() == TOLD


def test_one_month_is_told_as_one(gone):
    DeletedLogs.objects.update(kept_months=1)
    assert gone.told_of_deleted_log().endswith("logs are kept for 1 month.")


# -- the migration


def migrate_to(*states: tuple[str, str]) -> None:
    executor = MigrationExecutor(connection)
    executor.migrate(list(states) or executor.loader.graph.leaf_nodes())


def rows() -> list[tuple[object, ...]]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, run_id, first_seq, last_seq, lines FROM opsconsole_logchunk")
        return sorted(cursor.fetchall())


@pytest.mark.usefixtures("whole_again")
def test_migration_keeps_every_chunk_there_and_back(made):
    old, run = made(LONG_AGO), made(0)
    part_log()
    store(run, first=3)
    before = rows()
    assert len(before) == 3
    try:
        migrate_to(BEFORE)
        assert rows() == before
    finally:
        migrate_to()
    assert rows() == before
    assert [each.name for each in partitions()] == ["opsconsole_logchunk_0"]
    assert has_log(old)
    store(run, first=5)
    assert len({row[0] for row in rows()}) == 4
    tend()
    assert [run.log_chunks.count(), has_log(old)] == [3, True]
