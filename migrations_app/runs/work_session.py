"""The one session in which a step applies its scripts, so that each finds what the last one left."""

from __future__ import annotations

import psycopg

from migrations_app.engines import Engine
from opsconsole.runs.step import RunContext
from opsconsole.targets import server

PART = "migrate"


class WorkSession:
    """Use as a context manager: leaving it closes the session."""

    def __init__(self, context: RunContext, engine: Engine) -> None:
        self._context = context
        self._engine = engine
        self._name = context.session_name(PART)
        self.connection = self._open()

    def __enter__(self) -> WorkSession:
        return self

    def __exit__(self, *_error: object) -> None:
        self.connection.close()

    def ready(self) -> psycopg.Connection:
        """The session, ready for the next script; a new one when it was lost in the meantime."""
        try:
            server.guard(self.connection, self._name)
        except psycopg.OperationalError:
            if not self.connection.closed:
                raise
            self._reopen()
        return self.connection

    def _reopen(self) -> None:
        self._context.log(
            "  the session was lost: a new one goes on, without what earlier files had set in it",
            "hm",
        )
        self.connection = self._open()

    def _open(self) -> psycopg.Connection:
        connection = self._context.connect(PART)
        self._engine.begin_session(connection)
        return connection
