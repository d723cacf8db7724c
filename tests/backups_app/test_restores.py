"""Restores as a new database, and the exchange that takes one back."""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from contextlib import suppress
from unittest.mock import Mock

import psycopg
import pytest

from backups_app import services
from backups_app.choices import BackupReason, ProofLevel
from backups_app.models import Backup, ReplacedDatabase
from backups_app.runs import proving
from opsconsole.exceptions import Kind, Refused, StepFailed
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.models import Run
from opsconsole.targets import swap
from opsconsole.targets.content import read_tables
from opsconsole.targets.dsn import Dsn
from opsconsole.work.models import WorkItem
from tests.backups_app.conftest import execute, restore
from tests.conftest import autovacuum_at_work
from tests.worker import do_work

pytestmark = pytest.mark.usefixtures("transactional_db")


def test_restore_into_a_new_database_leaves_the_live_one_alone(
    backup, environment, operator, target
):
    target.execute("DELETE FROM targets")
    name = f"{target.info.dbname}_copy"
    run = restore(operator, backup, environment, new_database=name, typed_name="")
    assert run.status == RunStatus.SUCCEEDED, run.summary
    assert run.summary.endswith("The live database was not touched.")
    with psycopg.connect(environment.dsn, dbname=name) as connection:
        tables = read_tables(connection)
    assert tables == backup.manifest["content"]["tables"]
    assert target.execute("SELECT count(*) FROM targets").fetchone() == (0,)
    again = restore(operator, backup, environment, new_database=name, typed_name="")
    assert f"there already is a database {name}" in again.summary


def test_restore_that_backs_up_first_keeps_a_proven_backup_of_what_it_replaces(
    backup, environment, operator, target
):
    target.execute("INSERT INTO users (name) VALUES ('later')")
    before = read_tables(target)
    target.close()
    run = restore(operator, backup, environment, backs_up_first=True)
    assert run.status == RunStatus.SUCCEEDED, run.summary
    taken = Backup.objects.exclude(pk=backup.pk).get()
    assert (taken.reason, taken.proof) == (BackupReason.BEFORE_RESTORE, ProofLevel.CONTENT)
    assert taken.tables == before
    with psycopg.connect(environment.dsn) as connection:
        assert read_tables(connection) == backup.tables


def test_restore_is_not_begun_when_the_backup_before_it_fails(
    backup, environment, operator, target, monkeypatch
):
    monkeypatch.setattr(proving, "prove_backup", Mock(side_effect=StepFailed("it differs")))
    run = restore(operator, backup, environment, backs_up_first=True)
    assert run.status == RunStatus.FAILED
    assert run.summary == "Backup failed: it differs. The live database was not touched."
    assert not ReplacedDatabase.objects.exists()


@pytest.mark.long
def test_restore_waits_only_a_while_for_autovacuum(backup, environment, operator):
    with autovacuum_at_work(environment.dsn):
        run = restore(operator, backup, environment)
    assert run.status == RunStatus.SUCCEEDED, run.summary


def order_beside(environment, target, **limits):
    """An order to exchange the environment's database with an empty one, which is made here."""
    live = target.info.dbname
    built = f"{live}_built"
    target.execute(f"CREATE DATABASE {built}")
    return swap.Order(
        dsn=Dsn.parse(environment.dsn),
        application_name="opsconsole:swap",
        live=live,
        built=built,
        replaced=f"{live}_old",
        **limits,
    )


def test_exchange_that_cannot_end_a_session_reopens_soon_after_its_window(environment, target):
    order = order_beside(environment, target, window_seconds=0.2)
    steps = []
    os.kill(target.info.backend_pid, signal.SIGSTOP)
    try:
        with swap.Swap(order, steps.append) as exchange:
            began = time.monotonic()
            with pytest.raises(TimeoutError, match="do not end: 1 left"):
                exchange.run()
    finally:
        os.kill(target.info.backend_pid, signal.SIGCONT)
    assert steps == ["closing", "closed", "ended", "reopened"]
    # By itself the server looks for it every 100 ms, 50 times.
    assert time.monotonic() - began < 4


def test_nobody_is_cut_off_before_autovacuum_has_left(environment, target):
    order = order_beside(environment, target, autovacuum_patience_seconds=60)
    steps = []
    with autovacuum_at_work(environment.dsn), swap.Swap(order, steps.append) as exchange:
        swapping = threading.Thread(target=exchange.run)
        swapping.start()
        time.sleep(0.5)
        assert steps == []
        # Whoever needs a table that it works on makes it leave; the exchange may then be quicker
        # than the answer, and ends this session too.
        with suppress(psycopg.errors.AdminShutdown):
            target.execute("DROP TABLE vacuumed")
        swapping.join(timeout=60)
    assert steps == ["closing", "closed", "ended", "renamed"]


@pytest.mark.parametrize("name", ["postgres", "template1", "x" * 64, "a\0b"])
def test_restore_refuses_a_name_that_cannot_be(backup, environment, operator, name):
    with pytest.raises(Refused) as refusal:
        restore(operator, backup, environment, new_database=name)
    assert refusal.value.kind is Kind.INVALID


def undo(replaced: ReplacedDatabase, actor, typed_name: str = "staging") -> Run:
    return execute(
        services.request_undo(
            actor=actor,
            replaced=replaced,
            idempotency_key=uuid.uuid4().hex,
            typed_name=typed_name,
        )
    )


def test_undo_brings_the_other_state_back_hash_equal_and_can_be_undone(
    backup, environment, operator, target
):
    target.execute("UPDATE targets SET amount = -1; INSERT INTO users (name) VALUES ('later')")
    before = read_tables(target)
    target.close()
    first = ReplacedDatabase.objects.get(run=restore(operator, backup, environment))

    run = undo(first, operator)

    assert run.status == RunStatus.SUCCEEDED, run.summary
    with psycopg.connect(environment.dsn) as connection:
        assert read_tables(connection) == before
    first.refresh_from_db()
    assert first.undone_at is not None
    second = ReplacedDatabase.objects.kept().get()
    assert second.undoes == first
    assert undo(second, operator).status == RunStatus.SUCCEEDED
    with psycopg.connect(environment.dsn) as connection:
        assert read_tables(connection) == backup.manifest["content"]["tables"]


def test_undo_is_open_from_the_moment_the_names_are_exchanged(
    backup, environment, operator, monkeypatch
):
    from opsconsole.runs.recorder import Recorder
    from tests.conftest import superuser

    replaced = ReplacedDatabase.objects.get(run=restore(operator, backup, environment))
    seen: list[bool] = []
    original = Recorder.log

    def log(self, line: str, tone: str = "") -> None:
        if line == "swap: renamed":
            with superuser() as connection:
                row = connection.execute(
                    "SELECT datallowconn FROM pg_database WHERE datname = %s", [replaced.live_name]
                ).fetchone()
            seen.append(row[0])
        original(self, line, tone)

    monkeypatch.setattr(Recorder, "log", log)
    assert undo(replaced, operator).status == RunStatus.SUCCEEDED
    assert seen == [True]


def test_undo_is_refused_when_it_is_not_kept_or_not_confirmed(backup, environment, operator, admin):
    replaced = ReplacedDatabase.objects.get(run=restore(operator, backup, environment))
    with pytest.raises(Refused, match="Type the environment's name"):
        undo(replaced, operator, "production")
    services.request_drop(actor=admin, replaced=replaced, typed_name=replaced.replaced_name)
    with pytest.raises(Refused, match="is being dropped"):
        undo(replaced, operator)
    do_work(WorkItem.objects.get().pk)
    with pytest.raises(Refused, match="no longer kept"):
        undo(replaced, operator)


def test_undo_of_a_database_that_was_dropped_by_hand_changes_nothing(backup, environment, operator):
    replaced = ReplacedDatabase.objects.get(run=restore(operator, backup, environment))
    from tests.conftest import superuser

    with superuser() as connection:
        connection.execute(f'DROP DATABASE "{replaced.replaced_name}"')
    run = undo(replaced, operator)
    assert (run.status, "is no longer on the server" in run.summary) == (RunStatus.FAILED, True)
    psycopg.connect(environment.dsn).close()
