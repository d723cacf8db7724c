"""The run engine where things go wrong: fences, cancels, unknown outcomes, bugs."""

from __future__ import annotations

import threading
import time
import uuid

import psycopg
import pytest

from backups_app import services as backups
from migrations_app.engines.prisma import PrismaEngine
from migrations_app.runs import steps
from opsconsole.health.models import HealthCheck
from opsconsole.runs import lease
from opsconsole.runs import services as runs
from opsconsole.runs.choices import RunStatus, StepStatus
from opsconsole.runs.models import Run
from tests.conftest import log_of
from tests.migrations_app.test_migrate_run import (
    ADD,
    BREAKS_HEALTH,
    BROKEN,
    HALF,
    INDEX,
    columns,
)
from tests.worker import execute_run, resolve_lost_run

SLOW = 'ALTER TABLE "users" ADD COLUMN "x" int;\nSELECT pg_sleep(60);\n'


@pytest.fixture
def soon():
    """`soon(function)` calls it from another thread until it returns true."""
    threads: list[threading.Thread] = []

    def start(function) -> None:
        def loop() -> None:
            from django.db import connections

            deadline = time.monotonic() + 50
            while time.monotonic() < deadline and not function():
                time.sleep(0.02)
            connections.close_all()

        threads.append(threading.Thread(target=loop, daemon=True))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join(timeout=10)


def in_statement(environment, text: str) -> bool:
    with psycopg.connect(environment.dsn) as connection:
        return bool(
            connection.execute(
                "SELECT 1 FROM pg_stat_activity WHERE query LIKE %s AND pid <> pg_backend_pid()"
                " AND datname = current_database()",
                [f"%{text}%"],
            ).fetchone()
        )


def end_statement(environment) -> bool:
    """End the session that sleeps, as a failover would; whether there was one."""
    with psycopg.connect(environment.dsn, autocommit=True) as connection:
        return bool(
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE query LIKE %s AND pid <> pg_backend_pid()"
                " AND datname = current_database()",
                # Not in the text: the session of the last look may still be on its way out.
                ["%pg_sleep(60)%"],
            ).fetchone()
        )


def test_cancel_during_a_statement_leaves_nothing_and_the_file_pending(
    migrate, folder, environment, operator, soon, target
):
    folder.add("20250201000000_slow", SLOW)

    def cancel() -> bool:
        if not in_statement(environment, "pg_sleep(60)"):
            return False
        runs.request_cancel(actor=operator, run=Run.objects.get())
        return True

    soon(cancel)
    run = migrate()
    assert run.status == RunStatus.CANCELLED
    assert "was rolled back by PostgreSQL and left nothing" in run.summary
    assert columns(target, "users") == ["id", "name"]
    row = target.execute(
        "SELECT rolled_back_at IS NOT NULL FROM _prisma_migrations ORDER BY started_at DESC LIMIT 1"
    ).fetchone()
    assert row == (True,)


def test_cancel_in_a_file_that_is_not_atomic_names_what_landed(
    migrate, folder, environment, operator, soon
):
    folder.add("20250201000000_half", HALF.replace("UPDATE", "SELECT pg_sleep(60);\nUPDATE"))

    def cancel() -> bool:
        if not in_statement(environment, "pg_sleep(60)"):
            return False
        runs.request_cancel(actor=operator, run=Run.objects.get())
        return True

    soon(cancel)
    run = migrate()
    assert run.status == RunStatus.CANCELLED
    assert "the statements at lines 1, 2, 3 have landed" in run.summary


def test_stopping_worker_takes_the_cancel_path(migrate, folder, environment, monkeypatch, soon):
    folder.add("20250201000000_slow", SLOW)
    ending = threading.Event()
    monkeypatch.setattr(lease, "worker_is_ending", ending)

    def stop() -> bool:
        if in_statement(environment, "pg_sleep(60)"):
            ending.set()
        return ending.is_set()

    soon(stop)
    assert migrate().status == RunStatus.CANCELLED


def test_worker_whose_claim_is_gone_writes_nothing_more(migrate, folder, environment, soon):
    folder.add("20250201000000_slow", SLOW)

    def take_away() -> bool:
        if not in_statement(environment, "pg_sleep(60)"):
            return False
        Run.objects.update(status=RunStatus.LOST, claim_token=uuid.uuid4())
        return True

    soon(take_away)
    run = migrate()
    assert run.status == RunStatus.LOST
    assert not in_statement(environment, "pg_sleep(60)")
    resolve_lost_run(run.pk)
    run.refresh_from_db()
    assert (run.status, "left nothing" in run.summary) == (RunStatus.FAILED, True)


def test_lost_session_in_an_atomic_file_is_read_from_the_history(
    migrate, folder, environment, soon, target
):
    folder.add("20250201000000_slow", SLOW)

    soon(lambda: end_statement(environment))
    run = migrate()
    assert run.status == RunStatus.FAILED
    assert "PostgreSQL rolled the whole file back" in run.summary
    assert columns(target, "users") == ["id", "name"]


def test_lost_session_after_the_commit_counts_as_applied(migrate, folder, monkeypatch):
    folder.add("20250201000000_add_team", ADD)
    original = PrismaEngine.apply

    def apply(self, connection, *arguments):
        original(self, connection, *arguments)
        connection.close()
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(PrismaEngine, "apply", apply)
    run = migrate()
    assert run.status == RunStatus.SUCCEEDED, run.summary
    assert "the history shows it was applied" in log_of(run)


def test_unknown_end_of_a_data_change_needs_a_person(migrate, folder, environment, soon):
    folder.add(
        "20250201000000_half",
        'BEGIN;\nALTER TABLE "users" ADD COLUMN "x" int;\nCOMMIT;\nSELECT pg_sleep(60);\n',
    )

    soon(lambda: end_statement(environment))
    run = migrate()
    assert run.status == RunStatus.NEEDS_ATTENTION
    assert "cannot be known" in run.summary
    assert run.steps.get(name="migrate").status == StepStatus.UNKNOWN


def test_verify_finds_a_table_that_no_migration_mentions(migrate, folder, monkeypatch, environment):
    folder.add("20250201000000_add_team", ADD)
    original = steps.Migrate.run

    def run_and_meddle(self, context):
        said = original(self, context)
        with psycopg.connect(environment.dsn, autocommit=True) as connection:
            connection.execute("ALTER TABLE users ADD COLUMN sneaky int")
        return said

    monkeypatch.setattr(steps.Migrate, "run", run_and_meddle)
    run = migrate()
    assert "users changed, and no migration of the plan mentions it" in run.summary
    assert run.status == RunStatus.ROLLED_BACK


def test_verify_finds_a_history_that_was_altered(migrate, folder, monkeypatch, environment):
    folder.add("20250201000000_add_team", ADD)
    original = steps.Migrate.run

    def run_and_forget(self, context):
        said = original(self, context)
        with psycopg.connect(environment.dsn, autocommit=True) as connection:
            connection.execute("DELETE FROM _prisma_migrations WHERE migration_name LIKE '%team'")
        return said

    monkeypatch.setattr(steps.Migrate, "run", run_and_forget)
    assert "the history does not show 20250201000000_add_team as applied" in migrate().summary


def test_fewer_rows_are_a_warning(migrate, folder, monkeypatch, environment):
    folder.add("20250201000000_add_team", ADD)
    original = steps.Migrate.run

    def run_and_delete(self, context):
        said = original(self, context)
        with psycopg.connect(environment.dsn, autocommit=True) as connection:
            connection.execute("DELETE FROM targets WHERE id <= 3")
        return said

    monkeypatch.setattr(steps.Migrate, "run", run_and_delete)
    run = migrate()
    assert run.status == RunStatus.SUCCEEDED
    assert "public.targets: 3 rows fewer than before" in log_of(run)


def test_health_that_failed_before_and_after_needs_a_person(migrate, folder, environment):
    HealthCheck.objects.update(address="SELECT false")
    folder.add("20250201000000_add_team", ADD)
    run = migrate()
    assert run.status == RunStatus.NEEDS_ATTENTION
    assert "as it was before this run" in run.summary


def test_environment_without_checks_says_so(migrate, folder):
    HealthCheck.objects.all().delete()
    folder.add("20250201000000_add_team", ADD)
    run = migrate()
    assert run.steps.get(name="health").summary == "no health check is configured"


def test_policy_never_asks_a_person(migrate, folder, environment):
    environment.auto_rollback = "never"
    environment.save()
    folder.add("20250201000000_rename", BREAKS_HEALTH)
    run = migrate()
    assert run.status == RunStatus.NEEDS_ATTENTION
    assert "leaves going back to a person" in run.summary


def test_without_a_backup_there_is_only_keeping(migrate, folder, environment):
    environment.backup_before_migrate = False
    environment.save()
    folder.add("20250201000000_rename", BREAKS_HEALTH)
    run = migrate()
    assert [way["action"] for way in run.result["ways"]] == ["keep"]


def test_protected_environment_takes_a_backup_whatever_the_field_says(environment):
    environment.backup_before_migrate = False
    environment.is_protected = True
    assert environment.takes_backup


def test_bug_in_a_step_fails_the_run_without_a_traceback_in_it(migrate, folder, monkeypatch):
    folder.add("20250201000000_add_team", ADD)
    monkeypatch.setattr(steps.Snapshot, "run", lambda *_: {}["missing"])
    run = migrate()
    assert run.status == RunStatus.FAILED
    assert "unexpected KeyError: 'missing'" in run.summary


def test_address_that_cannot_be_opened_fails_the_run(
    transactional_db, environment, operator, settings
):
    run = backups.request_backup(
        actor=operator, target=environment.targets.get(), idempotency_key="k" * 32
    )
    settings.ENCRYPTION_KEYS = ["A" * 43 + "="]
    execute_run(run.pk, "w")
    run.refresh_from_db()
    assert (run.status, "none of OPSCONSOLE_ENCRYPTION_KEYS fits" in run.summary) == (
        RunStatus.FAILED,
        True,
    )


def test_lock_of_another_console_refuses_the_run(migrate, folder, environment):
    from opsconsole.targets.dsn import Dsn
    from opsconsole.targets.server import TargetLock

    folder.add("20250201000000_add_team", ADD)
    lock = TargetLock(Dsn.parse(environment.dsn), "another console")
    lock.acquire()
    run = migrate()
    lock.release()
    assert run.status == RunStatus.FAILED
    assert "another session is changing this database: another console" in run.summary


def test_long_transaction_is_named_and_the_run_refused(migrate, folder, environment, monkeypatch):
    from opsconsole.targets import activity

    folder.add("20250201000000_add_team", ADD)
    monkeypatch.setattr(activity.blockers, "__defaults__", (0,))
    with psycopg.connect(environment.dsn, application_name="reporting") as other:
        other.execute("SELECT count(*) FROM users")
        run = migrate()
    assert "reporting, idle in transaction" in run.summary
    assert "a schema change would queue behind it" in run.summary


def test_leftover_session_of_an_older_run_is_ended(migrate, folder, environment):
    folder.add("20250201000000_add_team", ADD)
    leftover = psycopg.connect(environment.dsn, application_name="opsconsole:999999:migrate")
    run = migrate()
    assert run.status == RunStatus.SUCCEEDED
    assert "ended a leftover session of run 999999" in log_of(run)
    leftover.close()


# -- lost migrate runs, resolved from evidence


def lose(run: Run, **result) -> Run:
    Run.objects.filter(pk=run.pk).update(
        status=RunStatus.LOST, claim_token=uuid.uuid4(), result=run.result | result
    )
    resolve_lost_run(run.pk)
    run.refresh_from_db()
    return run


def test_lost_after_everything_was_applied_and_healthy_is_succeeded(migrate, folder):
    folder.add("20250201000000_add_team", ADD)
    assert lose(migrate()).status == RunStatus.SUCCEEDED


def test_lost_after_everything_was_applied_and_unhealthy_offers_the_ways(
    migrate, folder, environment
):
    environment.auto_rollback = "never"
    environment.save()
    folder.add("20250201000000_rename", BREAKS_HEALTH)
    run = lose(migrate())
    assert run.status == RunStatus.NEEDS_ATTENTION
    assert [way["action"] for way in run.result["ways"]] == ["restore", "keep"]


def test_lost_after_the_swap_is_rolled_back(migrate, folder):
    folder.add("20250201000000_rename", BREAKS_HEALTH)
    run = migrate()
    assert lose(run, replaced=None).status == RunStatus.ROLLED_BACK
    assert run.result["replaced"]


def test_lost_between_two_migrations_names_the_first(migrate, folder, target):
    folder.add("20250201000000_add_team", ADD)
    folder.add("20250202000000_index", INDEX)
    run = migrate()
    target.execute("DELETE FROM _prisma_migrations WHERE migration_name LIKE '%_index'")
    assert "between two migrations" in lose(run).summary


def test_lost_between_two_migrations_of_which_the_first_broke_health_needs_a_person(
    migrate, folder, target
):
    folder.add("20250201000000_rename", BREAKS_HEALTH)
    folder.add("20250202000000_broken", BROKEN)
    run = migrate()
    target.execute("DELETE FROM _prisma_migrations WHERE migration_name LIKE '%_broken'")
    lost = lose(run, ways=[])
    assert lost.status == RunStatus.NEEDS_ATTENTION
    assert lost.summary.startswith("Health is failing (amounts: 42703 ")
    assert lost.summary.endswith("still there: 20250201000000_rename.")
    assert [way["action"] for way in lost.result["ways"]] == ["restore", "keep"]


@pytest.mark.parametrize(("drop", "words"), [(False, "is there and valid"), (True, "left nothing")])
def test_lost_in_a_concurrent_index_is_read_from_the_catalogue(
    migrate, folder, target, drop, words
):
    folder.add("20250201000000_add_team", ADD)
    folder.add("20250202000000_index", INDEX)
    run = migrate()
    target.execute(
        "UPDATE _prisma_migrations SET finished_at = NULL WHERE migration_name LIKE '%_index'"
    )
    if drop:
        target.execute("DROP INDEX targets_team_idx")
    lost = lose(run)
    assert (lost.status, words in lost.summary) == (RunStatus.FAILED, True)


def test_lost_in_a_file_that_is_not_atomic_needs_a_person(migrate, folder):
    folder.add("20250201000000_half", HALF)
    assert lose(migrate()).status == RunStatus.NEEDS_ATTENTION


def test_lost_in_a_file_that_is_gone_needs_a_person(migrate, folder):
    file = folder.add("20250201000000_half", HALF)
    run = migrate()
    file.unlink()
    file.parent.rmdir()
    assert "whose file is gone" in lose(run).summary


def test_lost_before_anything_was_applied_is_failed(migrate, folder, target):
    folder.add("20250201000000_add_team", ADD)
    run = migrate()
    target.execute("DELETE FROM _prisma_migrations WHERE migration_name LIKE '%_team'")
    assert "before anything was changed" in lose(run).summary


def test_lost_resolution_is_what_the_history_says(migrate, folder, environment, operator):
    from migrations_app.services.doctor import request_resolution

    folder.add("20250201000000_half", HALF)
    migrate()
    made = request_resolution(
        actor=operator,
        target=environment.targets.get(),
        name="20250201000000_half",
        mark="applied",
        reason="done by hand",
        idempotency_key="z" * 32,
    )
    assert "as failed" in lose(made).summary
    Run.objects.filter(pk=made.pk).update(status=RunStatus.QUEUED)
    execute_run(made.pk, "w")
    made.refresh_from_db()
    assert made.status == RunStatus.SUCCEEDED, made.summary
    assert lose(made).status == RunStatus.SUCCEEDED


def test_only_a_lost_run_is_resolved(migrate, folder):
    folder.add("20250201000000_add_team", ADD)
    run = migrate()
    resolve_lost_run(run.pk)
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED
