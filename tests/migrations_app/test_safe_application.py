"""A migration never makes the application wait longer than the environment's policy says."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest

from opsconsole.environments.models import Environment
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.recorder import Recorder
from opsconsole.targets import activity
from tests.conftest import log_of
from tests.worker import observe_target

NAME = "20260101000000_change"


def set_policy(environment, **fields) -> None:
    Environment.objects.filter(pk=environment.pk).update(**fields)


@contextmanager
def held(dsn: str, mode: str, seconds: float | None = None) -> Iterator[Callable[[], None]]:
    """Another session locks `users`, until told to release it or for so long."""
    with psycopg.connect(dsn) as connection:
        connection.execute(f"LOCK TABLE users IN {mode} MODE")
        timer = threading.Timer(seconds or 60, connection.commit)
        timer.daemon = True
        timer.start()
        try:
            yield connection.commit
        finally:
            timer.cancel()
            timer.join(1)


@contextmanager
def reader(dsn: str) -> Iterator[list[float]]:
    """A client of the application reads `users` all the time; how long each read took."""
    stop, took = threading.Event(), [0.0]

    def read() -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            while not stop.wait(0.02):
                began = time.monotonic()
                connection.execute("SELECT count(*) FROM users")
                took.append(time.monotonic() - began)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield took
    finally:
        stop.set()
        thread.join()


def test_migration_that_the_application_waits_behind_is_given_up(
    migrate, environment, folder, target
):
    set_policy(environment, blocking_limit_seconds=1)
    folder.add(NAME, "ALTER TABLE users ADD COLUMN added int;\nSELECT pg_sleep(60);\n")
    with reader(environment.dsn) as took:
        run = migrate()

    assert run.status == RunStatus.FAILED
    assert "line 2: given up, because 1 session waited behind it for" in run.summary
    assert "it left nothing and is pending again" in run.summary
    assert max(took) < 20
    assert [c.name for c in target.execute("SELECT * FROM users LIMIT 0").description] == [
        "id",
        "name",
    ]
    assert observe_target(environment.targets.get()).pending == [NAME]


def test_session_that_reads_other_tables_gives_nothing_up(migrate, environment, folder, target):
    set_policy(environment, blocking_limit_seconds=0.5)
    folder.add(NAME, "ALTER TABLE targets ADD COLUMN added int;\nSELECT pg_sleep(2);\n")
    with reader(environment.dsn):
        run = migrate()
    assert run.status == RunStatus.SUCCEEDED, run.summary


def test_wait_for_a_lock_is_given_up_and_tried_again_until_it_is_free(migrate, environment, folder):
    set_policy(environment, lock_timeout_seconds=2)
    folder.add(NAME, "ALTER TABLE users ADD COLUMN added int;\n")
    with held(environment.dsn, "ACCESS SHARE") as release:

        def let_go_after_the_first_try() -> None:
            threading.Timer(12, release).start()

        run = migrate(between=let_go_after_the_first_try)
    assert run.status == RunStatus.SUCCEEDED, run.summary
    assert "a lock was not free within 100 ms" in log_of(run)


def test_lock_that_never_comes_free_fails_the_run_after_its_patience(migrate, environment, folder):
    set_policy(environment, lock_timeout_seconds=1, lock_patience_seconds=1)
    folder.add(NAME, "ALTER TABLE users ADD COLUMN added int;\n")
    with held(environment.dsn, "ACCESS SHARE"):
        run = migrate()
    assert run.status == RunStatus.FAILED
    assert "55P03" in run.summary


def test_invalid_index_of_an_earlier_try_is_dropped_first(migrate, environment, folder, target):
    target.execute("INSERT INTO users (name) VALUES ('twice'), ('twice')")
    index = "CREATE UNIQUE INDEX CONCURRENTLY users_name ON users (name);"
    with pytest.raises(psycopg.errors.UniqueViolation):
        target.execute(index)
    target.execute("DELETE FROM users WHERE name = 'twice'")
    folder.add(NAME, index)

    run = migrate()
    assert run.status == RunStatus.SUCCEEDED, run.summary
    assert "dropped the invalid index users_name that a failed try left behind" in log_of(run)
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'users_name'::regclass"
    assert target.execute(valid).fetchone() == (True,)


def test_index_build_is_seen_with_its_phase(environment, target):
    with psycopg.connect(environment.dsn) as writing:
        writing.execute("INSERT INTO users (name) VALUES ('open')")
        with psycopg.connect(
            environment.dsn, autocommit=True, application_name="builder"
        ) as building:
            thread = threading.Thread(
                target=building.execute, args=["CREATE INDEX CONCURRENTLY i ON users (name)"]
            )
            thread.start()
            seen = None
            while seen is None or "waiting" not in seen[0]:
                seen = activity.index_progress(target, ["builder"])
            writing.rollback()
            thread.join()
            assert seen == ("index on users: waiting for writers before build", 0.0)
            assert activity.index_progress(target, ["builder"]) is None


def test_statement_under_way_is_shown_with_its_time(migrate, folder, monkeypatch):
    said = []
    monkeypatch.setattr(Recorder, "progress", lambda _self, *told: said.append(str(told[2])))
    folder.add(NAME, "SELECT pg_sleep(1.6);\n")
    run = migrate()
    assert run.status == RunStatus.SUCCEEDED, run.summary
    assert "SELECT pg_sleep(1.6), for 1 s" in said


def test_policy_lets_nobody_promise_less_waiting_than_one_wait_for_a_lock(environment, as_role):
    url = f"/settings/applications/{environment.application_id}/environments/{environment.pk}"
    answer = as_role("admin").post(
        url,
        {
            "name": "Staging", "slug": "staging", "position": 1,
            "migrations_folder": environment.migrations_folder, "auto_rollback": "never",
            "settle_seconds": 1, "queue": "runs", "lock_timeout_seconds": 4,
            "lock_patience_seconds": 60, "blocking_limit_seconds": 2,
            "statement_timeout_seconds": 60,
        },
    )  # fmt: skip
    assert answer.status_code == 422
    assert "Must be at least as long as the lock wait above" in answer.content.decode()
