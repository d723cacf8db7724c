"""Apply the statements of one script, and know at every moment which of them have landed."""

from __future__ import annotations

import itertools
import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace

import psycopg
from psycopg import sql

from migrations_app.engines.kinds import (
    Engine,
    Limits,
    Log,
    MigrationScript,
    Outcome,
    ScriptFailed,
    ScriptUnknown,
    Statement,
)
from migrations_app.engines.statements import Part, is_one_transaction, parts_of, within
from opsconsole.exceptions import Cancelled
from opsconsole.formats import duration
from opsconsole.targets import activity
from opsconsole.targets.notices import notices_to
from opsconsole.targets.server import reason_of

FAILS_WHEN_RUN = "SELECT 1 / 0;"
LOCK_NOT_AVAILABLE = "55P03"
BACKOFF_SECONDS = (0.5, 1, 2, 4, 8)


class Applying:
    """One script being applied on one session. `finish()` writes the end of its history row."""

    def __init__(
        self,
        connection: psycopg.Connection,
        script: MigrationScript,
        limits: Limits,
        log: Log,
        sleep: Callable[[float], None],
        finish: Callable[[], None],
    ) -> None:
        self.connection = connection
        self.script = script
        self.limits = limits
        self.log = log
        self.sleep = sleep
        self.finish = finish
        self.current: list[Statement] = []
        self.outcome = Outcome()
        # Of what the server counts as written, how much was not written by what runs now.
        self._counted = 0

    def run(self) -> Outcome:
        """Apply it; raises ScriptFailed, also when cancelled between two tries, or ScriptUnknown."""
        with notices_to(self.connection, self._log_notice):
            try:
                if not self.script.is_atomic or self._may_end_itself():
                    self._have_it_read()
                return self.at_once() if self.script.is_atomic else self.part_by_part()
            except Cancelled as error:
                statement = self.current[-1]
                raise ScriptFailed(
                    self.script, statement.line, statement, "cancelled", self.outcome
                ) from error

    def at_once(self) -> Outcome:
        """All statements and the history row's end in one transaction: the row is the evidence."""

        def everything() -> None:
            for statement in within(self.script.statements):
                self._execute(statement)
            self._count_rows()
            self.finish()

        self._in_transaction(everything)
        self.outcome.landed = list(self.script.statements)
        return self.outcome

    def part_by_part(self) -> Outcome:
        """Each of the script's own transactions, and each statement that is outside of any."""
        for part in parts_of(self.script.statements):
            if part.is_outside:
                self._outside_transaction(*part.statements)
            else:
                self._transaction(part)
        self._finish_alone()
        return self.outcome

    def _may_end_itself(self) -> bool:
        """Whether nobody here can tell if a statement of it ends the transaction."""
        return any(statement.kind == "unparsed" for statement in self.script.statements)

    def _have_it_read(self) -> None:
        """A tool sends the script whole, and the server reads all of it before anything runs: one
        wrong word, and nothing does. So it is asked to, with a statement in front that fails."""
        text, starts = FAILS_WHEN_RUN, []
        for statement in self.script.statements:
            starts.append(len(text))
            text += f"{statement.text}\n;"
        try:
            self.connection.execute(text.encode())
        except psycopg.errors.DivisionByZero:
            return
        except psycopg.Error as error:
            if self.connection.closed or self.connection.broken:
                raise
            position = int(error.diag.statement_position or 1) - 1
            number = max(bisect_right(starts, position) - 1, 0)
            statement = self.script.statements[number]
            line = statement.line + statement.text.count("\n", 0, max(position - starts[number], 0))
            raise ScriptFailed(
                self.script, line, statement, reason_of(error), self.outcome
            ) from error

    def _finish_alone(self) -> None:
        """A script can leave a session that cannot write: then it failed, as with its tool."""
        try:
            self.finish()
        except psycopg.Error as error:
            if not self.script.statements:
                raise
            self._fail(self.script.statements[-1], error, unknown=False)

    def _transaction(self, part: Part) -> None:
        def this_part() -> None:
            for statement in within(part.statements):
                self._execute(statement)
            if not part.is_rolled_back:
                self._count_rows()

        self._in_transaction(
            this_part,
            unknown_if_lost=not part.is_rolled_back,
            rolls_back=part.is_rolled_back,
        )
        self.outcome.landed += part.statements

    def _outside_transaction(self, statement: Statement) -> None:
        # Without lock_timeout: a wait of CONCURRENTLY blocks nobody, and giving it up leaves
        # an invalid index behind.
        before = self._set_timeouts("0", "0")
        # One that an earlier try left behind would make this one fail.
        self._drop_invalid_index(statement)
        try:
            self._execute(statement)
        except psycopg.Error as error:
            self._drop_invalid_index(statement)
            self._fail(statement, error, unknown=True)
        self.outcome.landed.append(statement)
        self._set_timeouts(*before)

    def _set_timeouts(self, lock: str, statement: str) -> tuple[str, str]:
        """Set the session's own; returns what they were."""
        row = self.connection.execute(
            "SELECT current_setting('lock_timeout'), current_setting('statement_timeout')"
        ).fetchone()
        assert row is not None
        self.connection.execute(
            "SELECT set_config('lock_timeout', %s, false), set_config('statement_timeout', %s, false)",
            [lock, statement],
        )
        return row[0], row[1]

    def _in_transaction(
        self,
        work: Callable[[], None],
        *,
        unknown_if_lost: bool = False,
        rolls_back: bool = False,
    ) -> None:
        """Run in a transaction; a wait for a lock is given up and tried again, never waited out."""
        deadline = time.monotonic() + self.limits.lock_patience
        for attempt in itertools.count():
            self.current.clear()
            rows_before = self.outcome.rows_written
            try:
                self._counted = activity.rows_not_yet_known(self.connection)
                with self.connection.transaction(force_rollback=rolls_back):
                    self._set_local_limits()
                    work()
            except psycopg.Error as error:
                self.outcome.rows_written = rows_before
                if error.sqlstate == LOCK_NOT_AVAILABLE and time.monotonic() < deadline:
                    self._wait_and_retry(attempt)
                    continue
                last = self.current[-1] if self.current else self.script.statements[0]
                self._fail(last, error, unknown=unknown_if_lost)
            return

    def _count_rows(self) -> None:
        seen = activity.rows_written_here(self.connection)
        self.outcome.rows_written += seen - self._counted
        self._counted = seen

    def _wait_and_retry(self, attempt: int) -> None:
        pause = BACKOFF_SECONDS[min(attempt, len(BACKOFF_SECONDS) - 1)]
        self.log(
            f"  line {self.current[-1].line}: a lock was not free within "
            f"{duration(self.limits.lock_timeout)}; gave up the wait so that nobody queues behind it, "
            f"trying again in {duration(pause)}",
            "hm",
        )
        self.sleep(pause)

    def _set_local_limits(self) -> None:
        # By SET, which is no query: the script may still set the isolation of its transaction.
        for name, seconds in (
            ("lock_timeout", self.limits.lock_timeout),
            ("statement_timeout", self.limits.statement_timeout),
        ):
            self.connection.execute(f"SET LOCAL {name} = {int(seconds * 1000)}")

    def _execute(self, statement: Statement) -> None:
        self.current.append(statement)
        self.connection.execute(statement.text.encode())

    def _fail(self, statement: Statement, error: psycopg.Error, *, unknown: bool) -> None:
        """Raise ScriptFailed, or ScriptUnknown when the session is gone and it matters."""
        if self.connection.closed or self.connection.broken:
            if unknown:
                raise ScriptUnknown(self.script, statement, self.outcome) from error
            raise error
        if self.connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            self.connection.execute("ROLLBACK")
        raise ScriptFailed(
            self.script, _error_line(statement, error), statement, reason_of(error), self.outcome
        ) from error

    def _log_notice(self, severity: str, sqlstate: str, message: str) -> None:
        where = f" ({self.script.file} line {self.current[-1].line})" if self.current else ""
        tone = "hm" if severity == "WARNING" else ""
        self.log(f"  {severity} {sqlstate}: {message}{where}", tone)

    def _drop_invalid_index(self, statement: Statement) -> None:
        name = statement.concurrent_index
        if not name or self.connection.closed or self.connection.broken:
            return
        if drop_invalid_index(self.connection, name):
            self.log(f"  dropped the invalid index {name} that a failed try left behind", "hm")


def finish_rest(
    engine: Engine,
    connection: psycopg.Connection,
    script: MigrationScript,
    landed: int,
    limits: Limits,
    log: Log,
    sleep: Callable[[float], None],
) -> Outcome:
    """Apply the statements after the first `landed` ones, then record the script as applied.

    The record is in the same transaction where the rest can be one. Raises as `Applying.run`.
    """
    rest = script.statements[landed:]
    if engine.schema != "public":
        connection.execute(sql.SQL("SET search_path TO {}").format(sql.Identifier(engine.schema)))
    remaining = replace(script, statements=rest, is_atomic=is_one_transaction(rest))
    return Applying(
        connection,
        remaining,
        limits,
        log,
        sleep,
        finish=lambda: engine.mark_applied(connection, script),
    ).run()


def drop_invalid_index(connection: psycopg.Connection, name: str) -> bool:
    """Drop the index if it is there and invalid; returns whether it was."""
    row = connection.execute(
        "SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(%s) AND NOT indisvalid",
        [_quoted(name)],
    ).fetchone()
    if row is None:
        return False
    connection.execute(
        sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(sql.Identifier(*name.split(".", 1)))
    )
    return True


def has_valid_index(connection: psycopg.Connection, name: str) -> bool:
    row = connection.execute(
        "SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(%s) AND indisvalid", [_quoted(name)]
    ).fetchone()
    return row is not None


def _quoted(name: str) -> str:
    return ".".join('"' + part.replace('"', '""') + '"' for part in name.split(".", 1))


def _error_line(statement: Statement, error: psycopg.Error) -> int:
    position = error.diag.statement_position
    if not position:
        return statement.line
    return statement.line + statement.text.count("\n", 0, int(position) - 1)
