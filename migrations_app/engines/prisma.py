"""Prisma Migrate 6 and 7: its folder, its `_prisma_migrations` table, its lock.

Sources: prisma-engines (checksum.rs, postgres.rs, apply_migrations.rs) and the CLI itself,
which must agree with every row written here.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import time
import tomllib
import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import PurePosixPath

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from migrations_app.engines.applying import Applying
from migrations_app.engines.folder import not_text, read_script
from migrations_app.engines.kinds import (
    AppliedMigration,
    Engine,
    FolderReading,
    Limits,
    Log,
    MigrationScript,
    MigrationState,
    Outcome,
    ScriptFailed,
    Statement,
    ToolVerdict,
)
from migrations_app.engines.statements import (
    is_one_transaction,
    left_open,
    not_followed,
    not_sendable,
    split_statements,
)
from opsconsole.environments.migration_status import MigrationStatus as Status
from opsconsole.exceptions import AdapterError

TABLE = "_prisma_migrations"
ADVISORY_LOCK = 72707369
SPLITTING_SINCE = (7, 4)
CREATE_TABLE = """
CREATE TABLE {table} (
    "id"                    VARCHAR(36) PRIMARY KEY NOT NULL,
    "checksum"              VARCHAR(64) NOT NULL,
    "finished_at"           TIMESTAMPTZ,
    "migration_name"        VARCHAR(255) NOT NULL,
    "logs"                  TEXT,
    "rolled_back_at"        TIMESTAMPTZ,
    "started_at"            TIMESTAMPTZ NOT NULL DEFAULT now(),
    "applied_steps_count"   INTEGER NOT NULL DEFAULT 0
)
"""


def checksum_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def matches(text: str, checksum: str) -> bool:
    """Prisma's comparison: raw, or with either line ending throughout."""
    unix = text.replace("\r\n", "\n")
    return checksum in {
        checksum_of(text),
        checksum_of(unix),
        checksum_of(unix.replace("\n", "\r\n")),
    }


@lru_cache(maxsize=4096)
def _script(name: str, text: str, version: str) -> MigrationScript:
    statements = split_statements(text)
    return MigrationScript(
        name=name,
        file=f"{name}/migration.sql",
        sql=text,
        checksum=checksum_of(text),
        statements=statements,
        is_atomic=is_one_transaction(statements),
        refusal=not_sendable(text, statements) or _refusal(statements, version),
    )


class PrismaEngine(Engine):
    """See `Engine`; the folder is `prisma/migrations`."""

    label = tool = "Prisma"
    advisory_lock = ADVISORY_LOCK
    history_table = TABLE
    refuses_tables = True
    usual_folder = "prisma/migrations"

    @classmethod
    def folder_of(cls, path: PurePosixPath) -> PurePosixPath | None:
        is_one = path.name == "migration.sql" and len(path.parts) > 1
        return path.parent.parent if is_one else None

    @property
    def table(self) -> sql.Identifier:
        return sql.Identifier(self.schema, TABLE)

    # -- the folder

    def read_folder(self) -> FolderReading:
        try:
            folders = sorted(path for path in self.folder.iterdir() if path.is_dir())
        except OSError as error:
            raise AdapterError(f"cannot read {self.folder}: {error.strerror}") from error
        version = self._tool_version()
        problems = self._lock_file_problems()
        scripts = []
        for path in folders:
            if unnamed := not_text(path.name):
                problems.append(unnamed)
                continue
            try:
                text = read_script(path / "migration.sql", self.folder)
            except FileNotFoundError:
                problems.append(f"{path.name} holds no migration.sql (Prisma's error P3015)")
            except AdapterError as error:
                problems.append(f"{path.name}/migration.sql {error}")
            else:
                scripts.append(_script(path.name, text, version))
        return FolderReading(scripts, problems, version)

    @classmethod
    def script_of(cls, name: str, text: str) -> MigrationScript:
        return _script(name, text, "")

    def _lock_file_problems(self) -> list[str]:
        try:
            text = (self.folder / "migration_lock.toml").read_text()
            provider = tomllib.loads(text).get("provider")
        except FileNotFoundError:
            return []
        except (OSError, tomllib.TOMLDecodeError) as error:
            return [f"migration_lock.toml cannot be read: {error}"]
        if provider in {"postgresql", "postgres"}:
            return []
        return [f"migration_lock.toml is for {provider}, not postgresql (Prisma's error P3019)"]

    def _tool_version(self) -> str:
        """The project's own Prisma version, from its lock file or what is installed."""
        for parent in list(self.folder.parents)[:4]:
            for file, keys in (
                ("node_modules/prisma/package.json", ("version",)),
                ("package-lock.json", ("packages", "node_modules/prisma", "version")),
                ("package.json", ("devDependencies", "prisma")),
                ("package.json", ("dependencies", "prisma")),
            ):
                try:
                    value = json.loads((parent / file).read_text())
                    for key in keys:
                        value = value[key]
                except (OSError, ValueError, KeyError, TypeError):
                    continue
                return str(value).lstrip("^~=v ")
        return ""

    # -- the history table

    def read_history(self, connection: psycopg.Connection) -> list[AppliedMigration]:
        query = sql.SQL(
            "SELECT id, migration_name AS name, checksum, started_at, finished_at,"
            " rolled_back_at, logs, applied_steps_count AS steps FROM {}"
            " ORDER BY started_at, migration_name"
        ).format(self.table)
        try:
            with connection.cursor(row_factory=class_row(AppliedMigration)) as cursor:
                return cursor.execute(query).fetchall()
        except psycopg.errors.UndefinedTable:
            return []

    def _has_table(self, connection: psycopg.Connection) -> bool:
        row = connection.execute(
            "SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = %s AND c.relname = %s",
            [self.schema, TABLE],
        ).fetchone()
        return row is not None

    def compare(
        self, scripts: list[MigrationScript], rows: list[AppliedMigration], *, is_locked: bool
    ) -> list[MigrationState]:
        by_name: dict[str, list[AppliedMigration]] = {}
        for row in rows:
            by_name.setdefault(row.name, []).append(row)
        on_disk = {script.name: script for script in scripts}
        states = [
            _state(name, on_disk.get(name), by_name.get(name, []), is_locked)
            for name in sorted(on_disk.keys() | by_name.keys())
        ]
        # A name whose rows were all rolled back and whose folder is gone is only history.
        states = [s for s in states if not (s.state is Status.PENDING and s.script is None)]
        newest = max(
            (s.name for s in states if s.state in {Status.APPLIED, Status.EDITED}), default=""
        )
        return [
            replace(s, state=Status.OUT_OF_ORDER)
            if s.state is Status.PENDING and s.name < newest
            else s
            for s in states
        ]

    def tool_verdict(self, states: list[MigrationState]) -> ToolVerdict:
        """Seen with the CLI 6.19: a pending list hides all else, and five states say nothing."""
        pending = [s for s in states if s.state.is_pending]
        listed = [s.name for s in pending if not s.was_rolled_back]
        failed = [s.name for s in states if s.state.is_unfinished]
        if listed:
            says, shown = f"not yet applied: {len(listed)}", set(listed)
        elif failed:
            says, shown = f"failed: {', '.join(failed)}", set(failed)
        else:
            says, shown = "Database schema is up to date!", set()
        silent = tuple(
            s.name for s in states if s.state is not Status.APPLIED and s.name not in shown
        )
        return ToolVerdict("prisma migrate status", says, silent)

    def take_lock(
        self, connection: psycopg.Connection, limits: Limits, sleep: Callable[[float], None]
    ) -> None:
        deadline = time.monotonic() + limits.tool_lock_wait
        while True:
            row = connection.execute("SELECT pg_try_advisory_lock(%s)", [ADVISORY_LOCK]).fetchone()
            if row and row[0]:
                return
            if time.monotonic() > deadline:
                raise AdapterError(
                    "Prisma's own lock is held by another session: another deploy is running, "
                    "or a killed one left its session behind"
                )
            # Polled: a session blocked on the lock deadlocks with CREATE INDEX CONCURRENTLY.
            sleep(0.1)

    def ensure_history(self, connection: psycopg.Connection) -> None:
        if self._has_table(connection):
            return
        row = connection.execute(
            "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = %s AND c.relkind IN ('r', 'p')",
            [self.schema],
        ).fetchone()
        if row and row[0]:
            raise AdapterError(
                "the schema is not empty and has no _prisma_migrations (Prisma's error P3005): "
                "baseline it with `prisma migrate resolve --applied`"
            )
        connection.execute(sql.SQL(CREATE_TABLE).format(table=self.table))

    def baseline_command(self, name: str) -> str:
        return f"npx prisma migrate resolve --applied {shlex.quote(name)}"

    # -- applying

    def begin_session(self, connection: psycopg.Connection) -> None:
        connection.execute("RESET DateStyle")
        self._find_tables(connection)

    def _find_tables(self, connection: psycopg.Connection) -> None:
        connection.execute(sql.SQL("SET search_path TO {}").format(sql.Identifier(self.schema)))

    def apply(
        self,
        connection: psycopg.Connection,
        script: MigrationScript,
        limits: Limits,
        log: Log,
        sleep: Callable[[float], None],
    ) -> Outcome:
        row_id = str(uuid.uuid4())
        begun = connection.execute(
            sql.SQL(
                "INSERT INTO {} (id, checksum, migration_name, started_at, applied_steps_count)"
                " VALUES (%s, %s, %s, now(), 0) RETURNING tableoid = to_regclass(%s)"
            ).format(self.table),
            [row_id, script.checksum, script.name, TABLE],
        ).fetchone()
        if not (begun and begun[0]):
            # Prisma names its table without the schema, and stops when it is not found (P1014).
            self._find_tables(connection)
        applying = Applying(
            connection,
            script,
            limits,
            log,
            sleep,
            finish=lambda: self._finish_row(connection, row_id),
        )
        try:
            return applying.run()
        except ScriptFailed as failure:
            self.note_interrupted(connection, script.name, _prisma_log(failure))
            raise

    def _finish_row(self, connection: psycopg.Connection, row_id: str) -> None:
        connection.execute(
            sql.SQL(
                "UPDATE {} SET finished_at = clock_timestamp(),"
                " applied_steps_count = applied_steps_count + 1 WHERE id = %s"
            ).format(self.table),
            [row_id],
        )

    def mark_rolled_back(self, connection: psycopg.Connection, name: str) -> None:
        changed = connection.execute(
            sql.SQL(
                "UPDATE {} SET rolled_back_at = now() WHERE migration_name = %s"
                " AND finished_at IS NULL AND rolled_back_at IS NULL"
            ).format(self.table),
            [name],
        ).rowcount
        if not changed:
            raise AdapterError(f"{name} is not in a failed state (Prisma's errors P3011, P3012)")

    def mark_applied(self, connection: psycopg.Connection, script: MigrationScript) -> None:
        rows = [r for r in self.read_history(connection) if r.name == script.name]
        if any(r.finished_at and not r.rolled_back_at for r in rows):
            raise AdapterError(f"{script.name} is already applied (Prisma's error P3008)")
        with connection.transaction():
            connection.execute(
                sql.SQL(
                    "UPDATE {} SET rolled_back_at = now() WHERE migration_name = %s"
                    " AND finished_at IS NULL AND rolled_back_at IS NULL"
                ).format(self.table),
                [script.name],
            )
            connection.execute(
                sql.SQL(
                    "INSERT INTO {} (id, checksum, migration_name, logs, started_at, finished_at,"
                    " applied_steps_count) VALUES (%s, %s, %s, '', now(), now(), 0)"
                ).format(self.table),
                [str(uuid.uuid4()), script.checksum, script.name],
            )

    def note_interrupted(self, connection: psycopg.Connection, name: str, text: str) -> None:
        connection.execute(
            sql.SQL(
                "UPDATE {} SET logs = %s WHERE migration_name = %s AND finished_at IS NULL"
                " AND rolled_back_at IS NULL"
            ).format(self.table),
            [text, name],
        )


def _state(
    name: str, script: MigrationScript | None, rows: list[AppliedMigration], is_locked: bool
) -> MigrationState:
    """The rules of the history table, in Prisma's order of precedence."""
    unfinished = [r for r in rows if r.finished_at is None and r.rolled_back_at is None]
    if unfinished:
        state = Status.RUNNING if is_locked else Status.FAILED
        return MigrationState(name, state, script, unfinished[-1])
    live = [r for r in rows if r.finished_at and r.rolled_back_at is None]
    if not live:
        return MigrationState(name, Status.PENDING, script, None, was_rolled_back=bool(rows))
    row = live[-1]
    by_hand = row.steps == 0 and row.started_at == row.finished_at
    if script is None:
        return MigrationState(name, Status.MISSING_LOCALLY, None, row, by_hand)
    is_same = script.checksum == row.checksum or matches(script.sql, row.checksum)
    state = Status.APPLIED if is_same else Status.EDITED
    return MigrationState(name, state, script, row, by_hand)


def _refusal(statements: tuple[Statement, ...], version: str) -> str:
    """Why the project's own Prisma would reject the script, or lose a part of it; else empty.

    Before 7.4 a file is sent whole, as one implicit transaction: a statement that cannot run
    in a transaction has to be alone in its file.
    """
    opened = left_open(statements)
    if opened:
        return (
            f"line {opened.line} begins a transaction that the file does not end, so Prisma would "
            "say that it is applied and keep nothing of it: end it with COMMIT"
        )
    outside = [s for s in statements if not s.is_transactional]
    if not outside or len(statements) == 1:
        return not_followed(statements)
    match = re.match(r"(\d+)\.(\d+)", version)
    if match and (int(match[1]), int(match[2])) >= SPLITTING_SINCE:
        return not_followed(statements)
    return (
        f"line {outside[0].line} cannot run inside a transaction, and Prisma "
        f"{version or '6'} sends the file as one: move it to a migration of its own"
    )


def _prisma_log(failure: ScriptFailed) -> str:
    return (
        "A migration failed to apply. New migrations cannot be applied before the error is "
        f"recovered from.\n\nMigration name: {failure.script.name}\n\nDatabase error:\n"
        f"{failure.reason}\n\nPosition: {failure.script.file} line {failure.line}\n"
    )
