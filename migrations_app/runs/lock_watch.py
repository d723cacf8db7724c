"""Watch a script while it is applied: nobody waits behind it too long, and how far it is."""

from __future__ import annotations

import threading
from contextlib import suppress

import psycopg

from opsconsole.exceptions import AdapterError
from opsconsole.formats import counted, duration
from opsconsole.runs.step import RunContext
from opsconsole.targets import activity, server

SAMPLE_SECONDS = 0.1
# Ending the statement, and letting the others go on, takes its time too.
MARGIN_SECONDS = 0.2


class Watch:
    """Cancels the sessions of the given names when others wait behind them over `limit` seconds.

    `place` is the script's number, from 0, and how many there are. `gave_up` says why it was
    cancelled; "" when it was not.
    """

    def __init__(
        self, context: RunContext, names: list[str], limit: float, place: tuple[int, int]
    ) -> None:
        self.gave_up = ""
        self._context = context
        self._names = names
        self._limit = limit
        self._place = place
        self._done = threading.Event()
        self._session = server.connect(
            context.dsn, application_name=context.session_name("watch"), timeout_seconds=5
        )
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._done.set()
        self._thread.join(timeout=10)
        self._session.close()

    def _watch(self) -> None:
        # A watch that loses its own session must not end what it watches.
        with suppress(psycopg.Error, AdapterError):
            while not self._done.wait(SAMPLE_SECONDS):
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
            return
        what, percent = found
        number, count = self._place
        whole = 100 * (number + percent / 100) / count
        self._context.progress(min(whole, 99), None, f"{what}, {percent:.0f} %")
