"""Cut the console's connections to its own database, at the moment that a test names."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from django.db import connection

from tests.conftest import superuser

SLEEP = "PERFORM pg_sleep(60)"
DEFERRED = "CREATE CONSTRAINT TRIGGER held_once AFTER {} DEFERRABLE INITIALLY DEFERRED"
# What holds the first write of a table, and what its session then waits for. A commit that waits
# for a standby is done: only its acknowledgement is held back.
POINTS = {
    "while it is written": ("CREATE TRIGGER held_once BEFORE {}", SLEEP, "PgSleep"),
    "before it is committed": (DEFERRED, SLEEP, "PgSleep"),
    "after it was committed": (
        DEFERRED,
        "PERFORM set_config('synchronous_commit', 'on', true)",
        "SyncRep",
    ),
}
HELD = (
    "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity"
    " WHERE datname = %s AND wait_event = %s"
)


def cut_all(other: psycopg.Connection | None = None) -> None:
    """End every session that the console has in its own database."""
    with superuser() as fresh:
        (other or fresh).execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = %s AND application_name = 'opsconsole'",
            [connection.settings_dict["NAME"]],
        )


@contextmanager
def locked(table: str, mode: str = "ACCESS EXCLUSIVE") -> Iterator[None]:
    """Keep everybody from a table: the console's database answers, and does not get on.

    A weaker mode keeps out only those whom such a session would.
    """
    with superuser(connection.settings_dict["NAME"]) as session:
        session.execute("BEGIN")
        session.execute(f"LOCK TABLE {table} IN {mode} MODE")
        yield


@contextmanager
def cutting(every: float) -> Iterator[None]:
    """Cut all of them again and again, so many seconds apart."""
    done = threading.Event()

    def cut() -> None:
        with superuser() as other:
            while not done.wait(every):
                cut_all(other)

    thread = threading.Thread(target=cut)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def cut_once(event: str, point: str, *tables: str) -> Iterator[None]:
    """Cut the session that does the first such write (`INSERT`, `UPDATE`) of each table, at a point."""
    trigger, act, waits_for = POINTS[point]
    database = connection.settings_dict["NAME"]
    with superuser(database) as other:
        other.execute(
            "CREATE FUNCTION held_once() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            f" IF nextval('held_' || TG_ARGV[0]) = 1 THEN {act}; END IF; RETURN NEW; END $$"
        )
        for table in tables:
            other.execute(f"CREATE SEQUENCE held_{table}")
            other.execute(f"GRANT USAGE ON held_{table} TO PUBLIC")
            when = f"{event} ON {table}"
            other.execute(
                f"{trigger.format(when)} FOR EACH ROW EXECUTE FUNCTION held_once({table})"
            )
        if waits_for == "SyncRep":
            _let_commits_wait(other, "nobody")
        cutter = _Cutter(database, waits_for, len(tables))
        cutter.start()
        try:
            yield
        finally:
            cutter.join()
            if waits_for == "SyncRep":
                _let_commits_wait(other, "")
            other.execute("DROP FUNCTION held_once CASCADE")
            for table in tables:
                other.execute(f"DROP SEQUENCE held_{table}")
    assert not cutter.left, f"a write of {' or '.join(tables)} was not held {point}"


class _Cutter(threading.Thread):
    def __init__(self, database: str, waits_for: str, left: int) -> None:
        super().__init__()
        self._held = [database, waits_for]
        self.left = left

    def run(self) -> None:
        deadline = time.monotonic() + 20
        with superuser() as other:
            while self.left and time.monotonic() < deadline:
                self.left -= other.execute(HELD, self._held).fetchone()[0]
                time.sleep(0.01)


def _let_commits_wait(other: psycopg.Connection, standby: str) -> None:
    other.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{standby}'")
    other.execute("SELECT pg_reload_conf()")
    time.sleep(0.3)
