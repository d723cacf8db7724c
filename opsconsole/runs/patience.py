"""Go on while the console's own database is away, for as long as the lease of the run lasts."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from django.conf import settings
from django.db import (
    DatabaseError,
    InterfaceError,
    InternalError,
    OperationalError,
    connection,
    models,
    transaction,
)
from psycopg.errors import ReadOnlySqlTransaction

from opsconsole.exceptions import ConsoleError, FencedOut

T = TypeVar("T")
Execute = Callable[[str, object, bool, dict[str, object]], object]

logger = logging.getLogger(__name__)
AWAY = (OperationalError, InterfaceError)
# Seconds between tries: a connection that was cut costs one, a database that restarts a few.
PAUSES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)


class Lease:
    """How long this worker may hold its run without a word from the console's database."""

    def __init__(self) -> None:
        self.renewed(time.monotonic())

    def renewed(self, asked_at: float) -> None:
        """It was granted anew; `asked_at` is when that was asked for, of `time.monotonic()`."""
        self._ends_at: float = asked_at + settings.LEASE_SECONDS

    @property
    def seconds_left(self) -> float:
        return max(0.0, self._ends_at - time.monotonic())

    @property
    def is_over(self) -> bool:
        return not self.seconds_left

    def patiently(self, work: Callable[[], T]) -> T:
        """Do `work` on the console's database, again whenever its connection was cut.

        It may have been done already when only its acknowledgement was lost, so it has to be safe
        to repeat. Within a transaction it is done once: the whole of that has to be repeated.
        Raises FencedOut when the lease is over, and whatever else `work` raises.
        """
        if connection.in_atomic_block:
            return work()
        pauses = itertools.chain(PAUSES, itertools.repeat(PAUSES[-1]))
        while True:
            try:
                return work()
            except (DatabaseError, InterfaceError, ConsoleError) as error:
                if not is_away(error):
                    raise
                connection.close()
                if self.is_over:
                    raise FencedOut("the console's database is away") from error
                logger.warning("the console's database is away: %s", type(error).__name__)
            time.sleep(next(pauses))


# The lease of the run that this thread executes.
_held: ContextVar[Lease | None] = ContextVar("lease", default=None)


def patiently(work: Callable[[], T]) -> T:
    """`Lease.patiently` in the thread that executes a run; elsewhere `work` is done once."""
    lease = _held.get()
    return lease.patiently(work) if lease else work()


def save_new(row: models.Model) -> None:
    """Insert a row patiently, and once: its key is known before the commit is asked for, and a
    repetition finds what is stored under it."""

    def save() -> None:
        with transaction.atomic():
            row.save()

    patiently(save)


@contextmanager
def surviving(lease: Lease) -> Iterator[None]:
    """Have this thread's `patiently` rest on the lease, and every plain SELECT be such work."""
    token = _held.set(lease)
    try:
        with connection.execute_wrapper(_read_again):
            yield
    finally:
        _held.reset(token)


def is_away(error: BaseException | None) -> bool:
    """Whether the console's database was not there to write to: gone, or a standby for now.

    Also of a refusal because of that: the audit trail could not be written.
    """
    if isinstance(error, ConsoleError):
        return is_away(error.__cause__)
    only_reads = isinstance(error, InternalError) and isinstance(
        error.__cause__, ReadOnlySqlTransaction
    )
    return isinstance(error, AWAY) or only_reads


def _read_again(
    execute: Execute, sql: str, params: object, many: bool, context: dict[str, object]
) -> object:
    """Django's hook around each statement: outside of a transaction, read again after a cut."""
    if connection.in_atomic_block or not sql.startswith("SELECT"):
        return execute(sql, params, many, context)

    def read() -> object:
        if connection.connection is None:
            connection.ensure_connection()
            # The one at hand belongs to the connection that was cut.
            context["cursor"].cursor = connection.create_cursor()  # type: ignore[attr-defined]
        return execute(sql, params, many, context)

    return patiently(read)
