"""Watch scripts while they are applied: nobody waits behind one too long, and how far it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg

from opsconsole.exceptions import AdapterError
from opsconsole.formats import counted, duration, one_line
from opsconsole.runs.step import RunContext
from opsconsole.sentences import say
from opsconsole.targets import activity, server

SAMPLE_SECONDS = 0.1
# Ending the statement, and letting the others go on, takes its time too.
MARGIN_SECONDS = 0.2
SHOWN_EVERY_SECONDS = 1
SHOWN_CHARACTERS = 120


class Watch:
    """Cancels the sessions of the given names when others wait behind them over `limit` seconds.

    It looks only while one of the `count` scripts is being applied (`over_next`). `gave_up` says
    why the last one was cancelled; "" when it was not.
    """

    def __init__(self, context: RunContext, names: list[str], limit: float, count: int = 1) -> None:
        self.gave_up = ""
        self._context = context
        self._names = names
        self._limit = limit
        self._count = count
        self._begun = 0
        self._shown_at = 0.0
        self._is_applied = False
        # Held for a look and what follows from it: neither may reach into the next script.
        self._looking = threading.Lock()
        self._done = threading.Event()
        self._session = self._connect()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _connect(self) -> psycopg.Connection:
        return server.connect(
            self._context.dsn,
            application_name=self._context.session_name("watch"),
            timeout_seconds=5,
        )

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._done.set()
        self._thread.join(timeout=10)
        self._session.close()

    @contextmanager
    def over_next(self) -> Iterator[None]:
        """Watch the next script, for as long as the block lasts."""
        with self._looking:
            self.gave_up, self._is_applied = "", True
            self._begun += 1
        try:
            yield
        finally:
            with self._looking:
                self._is_applied = False

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            # A watch that loses its own session must not end what it watches.
            with suppress(psycopg.Error, AdapterError):
                if self._session.closed:
                    self._session = self._connect()
                self._look()

    def _look(self) -> None:
        with self._looking:
            if self._is_applied:
                self._look_who_waits()
                self._show_progress()

    def _look_who_waits(self) -> None:
        waiting, longest = activity.waiting_behind(self._session, self._names)
        if longest <= max(self._limit - MARGIN_SECONDS, self._limit / 2):
            return
        if not self.gave_up:
            self.gave_up = (
                f"given up, because {counted(waiting, 'session')} waited behind it for "
                f"{duration(longest)}, and this environment lets nobody wait longer than "
                f"{duration(self._limit)}"
            )
        activity.cancel_statements(self._session, self._names)

    def _show_progress(self) -> None:
        found = activity.index_progress(self._session, self._names)
        if found is None:
            self._show_statement()
            return
        what, percent = found
        whole = 100 * (self._begun - 1 + percent / 100) / self._count
        self._context.progress(min(whole, 99), None, f"{what}, {percent:.0f} %")

    def _show_statement(self) -> None:
        """What runs now, once a second, when it takes that long."""
        if time.monotonic() < self._shown_at + SHOWN_EVERY_SECONDS:
            return
        self._shown_at = time.monotonic()
        running = activity.running_statement(self._session, self._names)
        if running is None or running[1] < SHOWN_EVERY_SECONDS:
            return
        statement, seconds = running
        self._context.progress(
            100 * (self._begun - 1) / self._count,
            None,
            say(
                "%(statement)s, for %(time)s",
                statement=one_line(statement, SHOWN_CHARACTERS),
                time=duration(round(seconds)),
            ),
        )
