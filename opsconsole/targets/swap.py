"""Put one database in the place of another, in one short window, and destroy nothing.

Run as a program (`python -m opsconsole.targets.swap`): it reads an `Order` as JSON from
standard input and prints one JSON line per sub-step. It is not tied to the life of the worker
that started it: once begun it completes, or reopens the live database, within `window_seconds`.
The order of the steps, and why each is there: let autovacuum leave, close to new sessions
(committed on its own), end the sessions one by one, exchange both names in one transaction, open.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass

import psycopg
from psycopg import sql

from opsconsole.exceptions import AdapterError
from opsconsole.targets import server
from opsconsole.targets.dsn import Dsn
from opsconsole.targets.server import cut_off_after

STATEMENT_WAIT_MS = 800
STATEMENT_SECONDS = 5
AUTOVACUUM_POLL_SECONDS = 0.02
# RENAME sleeps 100 ms when it meets a client that is just being refused (CountOtherDBBackends), and
# any signal ends the sleep: the one by which the server looks after its own client does no harm.
CLIENT_CHECK_MS = 5
# Beyond its patience and its window, in which the server itself ends what takes too long.
STUCK_AFTER_SECONDS = 10.0


@dataclass(frozen=True)
class Order:
    """What to exchange, on a session in the maintenance database. As JSON it holds the password."""

    dsn: Dsn
    application_name: str
    live: str
    built: str
    replaced: str
    window_seconds: float = 3.0
    autovacuum_patience_seconds: float = 5.0

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Order:
        fields = json.loads(text)
        own = fields["dsn"].pop("own_database")
        dsn = Dsn(**fields.pop("dsn"), own_database=tuple(own) if own else None)
        return cls(dsn, **fields)


class Swap:
    """One exchange of names on one connection."""

    def __init__(self, order: Order, say: Callable[[str], None]) -> None:
        self.order = order
        self.say = say
        self.connection = self._connect()

    def __enter__(self) -> Swap:
        return self

    def __exit__(self, *_error: object) -> None:
        self.connection.close()

    def _connect(self) -> psycopg.Connection:
        connection = server.connect(
            self.order.dsn,
            application_name=self.order.application_name,
            database=self.order.dsn.maintenance_database,
            timeout_seconds=STATEMENT_SECONDS,
            client_check_ms=CLIENT_CHECK_MS,
        )
        connection.execute(f"SET lock_timeout = {STATEMENT_WAIT_MS}")
        return connection

    def run(self) -> None:
        """Exchange the names; on any failure reopen the live database and raise.

        A server that is stuck is left when the time is over: the catalogue says how it ended.
        """
        patience = self.order.autovacuum_patience_seconds + self.order.window_seconds
        with cut_off_after(patience + STUCK_AFTER_SECONDS, self.connection):
            self._exchange()

    def _exchange(self) -> None:
        self._let_autovacuum_leave()
        self.deadline = time.monotonic() + self.order.window_seconds
        try:
            self.say("closing")
            set_open(self.connection, self.order.live, is_open=False)
            self.say("closed")
            self._end_sessions()
            self.say("ended")
            self._rename()
        except BaseException:
            self._reopen()
            raise
        # The new one was open all along; the replaced one stays closed.
        self.say("renamed")

    def _let_autovacuum_leave(self) -> None:
        """Wait a while, nobody is cut off yet: one that is there when a database is renamed is ended
        by PostgreSQL, which waits for it behind closed doors.
        """
        deadline = time.monotonic() + self.order.autovacuum_patience_seconds
        while self._autovacuum_is_there() and time.monotonic() < deadline:
            time.sleep(AUTOVACUUM_POLL_SECONDS)

    def _autovacuum_is_there(self) -> bool:
        # Who may not look at it sees no kind of session, but neither a user, which others have.
        found = self.connection.execute(
            "SELECT 1 FROM pg_stat_activity WHERE datname = ANY(%s)"
            " AND (backend_type = 'autovacuum worker' OR usesysid IS NULL)",
            [[self.order.live, self.order.built]],
        )
        return found.fetchone() is not None

    def _end_sessions(self) -> None:
        """Tell each to end, and leave it to RENAME to see them gone: it holds a lock meanwhile, at
        which clients that sign in again wait, instead of being refused over and over.
        """
        told: set[int] = set()
        while new := self._sessions() - told:
            self._terminate(sorted(new))
            told |= new

    def _sessions(self) -> set[int]:
        # Autovacuum may not be ended by a role that is no superuser; the renaming ends it itself.
        names = [self.order.live, self.order.built]
        rows = self.connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = ANY(%s) AND pid <> pg_backend_pid()"
            " AND backend_type <> 'autovacuum worker'",
            [names],
        )
        return {row[0] for row in rows}

    def _terminate(self, pids: list[int]) -> None:
        """All in one statement: each round trip would stand in line behind the clients that already
        sign in again. One session that may not be ended makes it fail, and the rest is ended singly.
        """
        ending = "SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid"
        try:
            self.connection.execute(ending, [pids])
        except psycopg.errors.InsufficientPrivilege:
            for pid in pids:
                # One that stays is met by RENAME; the deadline then reopens the database.
                with suppress(psycopg.errors.InsufficientPrivilege):
                    self.connection.execute(ending, [[pid]])

    def _rename(self) -> None:
        rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
        live, built, replaced = map(
            sql.Identifier, (self.order.live, self.order.built, self.order.replaced)
        )
        while True:
            try:
                with self.connection.transaction():
                    self.connection.execute(rename.format(live, replaced))
                    self.connection.execute(rename.format(built, live))
            except (psycopg.errors.ObjectInUse, psycopg.errors.LockNotAvailable):
                if time.monotonic() > self.deadline:
                    if left := self._sessions():
                        raise TimeoutError(self._who_stays(len(left))) from None
                    raise
                self._end_sessions()
            else:
                return

    def _who_stays(self, count: int) -> str:
        return f"sessions of {self.order.live} do not end: {count} left"

    def _reopen(self) -> None:
        for _attempt in range(5):
            try:
                if self.connection.closed:
                    self.connection = self._connect()
                with cut_off_after(STUCK_AFTER_SECONDS, self.connection):
                    set_open(self.connection, self.order.live, is_open=True)
            except (psycopg.OperationalError, AdapterError):
                # It is locked, or the connection is lost.
                continue
            self.say("reopened")
            return


def set_open(connection: psycopg.Connection, name: str, *, is_open: bool) -> None:
    """Allow or refuse new sessions of everybody, superusers too. Existing ones live on."""
    connection.execute(
        sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}").format(
            sql.Identifier(name), sql.Literal(is_open)
        )
    )


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    order = Order.from_json(sys.stdin.readline())

    def say(step: str) -> None:
        # The worker may be gone: the exchange goes on all the same.
        try:
            os.write(1, json.dumps({"step": step, "at": time.time()}).encode() + b"\n")
        except BrokenPipeError:
            return

    try:
        with Swap(order, say) as swap:
            swap.run()
    except (AdapterError, psycopg.Error, TimeoutError) as error:
        lines = str(error).strip().splitlines()
        say(f"failed: {lines[0] if lines else type(error).__name__}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
