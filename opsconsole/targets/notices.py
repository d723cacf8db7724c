"""What a server says beside its answers: NOTICE, WARNING and the like."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
from psycopg.pq import DiagnosticField
from psycopg.pq.abc import PGresult

# Severity (in English, whatever the server speaks), SQLSTATE, message.
Hear = Callable[[str, str, str], None]


@contextmanager
def notices_to(connection: psycopg.Connection, hear: Hear) -> Iterator[None]:
    """Give each notice to `hear` while the block runs, and not to psycopg's own handlers: an object
    for each takes longer than all else, and a migration may raise a million. What `hear` raises is
    logged by psycopg.
    """

    def receive(result: PGresult) -> None:
        codec = connection.info.encoding
        severity = result.error_field(DiagnosticField.SEVERITY_NONLOCALIZED) or b""
        sqlstate = result.error_field(DiagnosticField.SQLSTATE) or b""
        message = result.error_field(DiagnosticField.MESSAGE_PRIMARY) or b""
        hear(severity.decode(), sqlstate.decode(), message.decode(codec, "replace"))

    before = connection.pgconn.notice_handler
    connection.pgconn.notice_handler = receive
    try:
        yield
    finally:
        connection.pgconn.notice_handler = before
