"""Clients that read and write a demo environment, and measure the longest gap each saw."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import psycopg

PAUSE_SECONDS = 0.01
READ = 'SELECT count(*) FROM "users" WHERE "id" %% 97 = %s'
WRITE = (
    'INSERT INTO "commissions" ("target_id", "deal", "amount", "closed_at")'
    " VALUES (%s, %s, %s, now())"
)


@dataclass
class Client:
    """One client: reads and writes in turn, and reconnects when it is cut off."""

    dsn: str
    number: int
    stop: threading.Event
    answers: int = 0
    writes: int = 0
    longest_gap: float = 0.0
    errors: Counter = field(default_factory=Counter)
    _last: float = 0.0

    def run(self) -> None:
        connection: psycopg.Connection | None = None
        self._last = time.monotonic()
        while not self.stop.is_set():
            try:
                if connection is None or connection.closed:
                    connection = psycopg.connect(
                        self.dsn, autocommit=True, application_name=f"traffic-{self.number}"
                    )
                self._once(connection)
            except psycopg.Error as error:
                self.errors[error.sqlstate or type(error).__name__] += 1
                if connection and (connection.closed or connection.broken):
                    connection = None
                time.sleep(0.002)
                continue
            self.stop.wait(PAUSE_SECONDS)
        if connection:
            connection.close()

    def _once(self, connection: psycopg.Connection) -> None:
        connection.execute(READ, [random.randrange(97)])  # noqa: S311
        connection.execute(WRITE, [random.randint(1, 500), f"traffic {self.number}", 10])  # noqa: S311
        now = time.monotonic()
        self.longest_gap = max(self.longest_gap, now - self._last)
        self._last = now
        self.answers += 1
        self.writes += 1


class Traffic:
    """A number of clients on threads. `report` has one row a client; gaps in milliseconds."""

    def __init__(self, dsn: str, clients: int = 10) -> None:
        self._stop = threading.Event()
        self.clients = [Client(dsn, number + 1, self._stop) for number in range(clients)]
        self._threads = [threading.Thread(target=c.run, daemon=True) for c in self.clients]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> list[dict]:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=10)
        return self.report()

    def report(self) -> list[dict]:
        return [
            {
                "client": c.number,
                "answers": c.answers,
                "writes": c.writes,
                "longest_gap_ms": round(c.longest_gap * 1000, 1),
                "errors": dict(c.errors),
            }
            for c in self.clients
        ]
