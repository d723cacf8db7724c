"""dbmate 2: its folder of `VERSION_name.sql` files and its `schema_migrations` table.

Sources: dbmate's README, and the tool itself (2.36), which must agree with every row written
here. It keeps versions only: no checksums, no times, no failures, and it takes no lock.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import PurePosixPath

import psycopg
from psycopg import sql

from migrations_app.engines.applying import Applying
from migrations_app.engines.dbmate_file import Sections, read_sections
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
    ToolVerdict,
)
from migrations_app.engines.statements import (
    left_open,
    not_followed,
    not_sendable,
    split_statements,
)
from opsconsole.environments.migration_status import MigrationStatus as Status
from opsconsole.exceptions import AdapterError

TABLE = "schema_migrations"
FILE = re.compile(r"^([0-9]+).*\.sql\Z")


class DbmateEngine(Engine):
    """See `Engine`; the folder is `db/migrations`."""

    label = tool = "dbmate"
    history_table = TABLE
    records_starts = False
    usual_folder = "db/migrations"

    @classmethod
    def folder_of(cls, path: PurePosixPath) -> PurePosixPath | None:
        return path.parent if FILE.match(path.name) else None

    @property
    def table(self) -> sql.Identifier:
        return sql.Identifier(self.schema, TABLE)

    # -- the folder

    def read_folder(self) -> FolderReading:
        scripts, problems = [], []
        for name in self._names():
            if unnamed := not_text(name):
                problems.append(unnamed)
                continue
            try:
                text = read_script(self.folder / f"{name}.sql", self.folder)
                scripts.append(_script(name, text))
            except AdapterError as error:
                problems.append(f"{name}.sql {error}")
        return FolderReading(scripts, problems + _shared_versions([s.name for s in scripts]))

    @classmethod
    def script_of(cls, name: str, text: str) -> MigrationScript:
        return _script(name, text)

    @classmethod
    def draft_text(cls, sql: str) -> str:
        return f"-- migrate:up\n{sql}\n-- migrate:down\n"

    def _names(self) -> list[str]:
        try:
            files = [path.name for path in self.folder.iterdir() if FILE.match(path.name)]
        except OSError as error:
            raise AdapterError(f"cannot read {self.folder}: {error.strerror}") from error
        return sorted(name.removesuffix(".sql") for name in files)

    # -- the history table

    def read_history(self, connection: psycopg.Connection) -> list[AppliedMigration]:
        names = {version_of(name): name for name in self._names()}
        try:
            rows = connection.execute(
                sql.SQL("SELECT version FROM {} ORDER BY version").format(self.table)
            ).fetchall()
        except psycopg.errors.UndefinedTable:
            return []
        return [
            AppliedMigration(
                id=str(version),
                name=names.get(version, str(version)),
                checksum="",
                started_at=None,
                finished_at=None,
                rolled_back_at=None,
                logs=None,
                steps=1,
            )
            for (version,) in rows
        ]

    def compare(
        self, scripts: list[MigrationScript], rows: list[AppliedMigration], *, is_locked: bool
    ) -> list[MigrationState]:
        on_disk = {script.name: script for script in scripts}
        applied = {row.name: row for row in rows}
        newest = max(applied, default="")
        states = []
        for name in sorted(on_disk.keys() | applied.keys()):
            if name in applied:
                is_here = name in on_disk
                state = Status.APPLIED if is_here else Status.MISSING_LOCALLY
            else:
                state = Status.OUT_OF_ORDER if name < newest else Status.PENDING
            states.append(MigrationState(name, state, on_disk.get(name), applied.get(name)))
        return states

    def tool_verdict(self, states: list[MigrationState]) -> ToolVerdict:
        """`dbmate status` lists the files it finds, and nothing that is only in the table."""
        shown = [s for s in states if s.state is not Status.MISSING_LOCALLY]
        pending = [s for s in shown if s.state is not Status.APPLIED]
        says = f"Applied: {len(shown) - len(pending)}, Pending: {len(pending)}"
        silent = tuple(
            s.name for s in states if s.state in {Status.MISSING_LOCALLY, Status.OUT_OF_ORDER}
        )
        return ToolVerdict("dbmate status", says, silent)

    def take_lock(
        self, connection: psycopg.Connection, limits: Limits, sleep: Callable[[float], None]
    ) -> None:
        """dbmate takes none; the run's own lock keeps other runs away."""

    def ensure_history(self, connection: psycopg.Connection) -> None:
        connection.execute(
            sql.SQL("CREATE TABLE IF NOT EXISTS {} (version character varying PRIMARY KEY)").format(
                self.table
            )
        )

    def baseline_command(self, name: str) -> str:
        return (
            sql.SQL(
                "CREATE TABLE IF NOT EXISTS {table} (version character varying PRIMARY KEY); "
                "INSERT INTO {table} (version) VALUES ({version});"
            )
            .format(table=self.table, version=version_of(name))
            .as_string()
        )

    # -- applying

    def begin_session(self, connection: psycopg.Connection) -> None:
        # As its driver does (lib/pq).
        connection.execute("SET DateStyle TO 'ISO, MDY'")
        self._find_tables(connection)

    def _find_tables(self, connection: psycopg.Connection) -> None:
        if self.schema == "public":
            connection.execute("RESET search_path")
        else:
            connection.execute(sql.SQL("SET search_path TO {}").format(sql.Identifier(self.schema)))

    def apply(
        self,
        connection: psycopg.Connection,
        script: MigrationScript,
        limits: Limits,
        log: Log,
        sleep: Callable[[float], None],
    ) -> Outcome:
        if script.refusal:
            raise AdapterError(f"{script.file} {script.refusal}")
        if not self._finds_its_table(connection):
            self._find_tables(connection)
        outcome = Applying(
            connection,
            script,
            limits,
            log,
            sleep,
            finish=lambda: self._insert(connection, script.name),
        ).run()
        # A transaction that the section began and did not end, dbmate ends with its own.
        connection.commit()
        return outcome

    def _finds_its_table(self, connection: psycopg.Connection) -> bool:
        """Whether dbmate would: it looks in the schema of its address, else in the first of the
        search path, else in public."""
        if self.schema != "public":
            return True
        row = connection.execute("SELECT coalesce(current_schema(), 'public')").fetchone()
        return row == (self.schema,)

    def _insert(self, connection: psycopg.Connection, name: str) -> None:
        connection.execute(
            sql.SQL("INSERT INTO {} (version) VALUES (%s)").format(self.table),
            [version_of(name)],
        )

    def mark_rolled_back(self, connection: psycopg.Connection, name: str) -> None:
        if name in {row.name for row in self.read_history(connection)}:
            raise AdapterError(f"{name} is applied: dbmate keeps no failed migrations to mark")

    def mark_applied(self, connection: psycopg.Connection, script: MigrationScript) -> None:
        if script.name in {row.name for row in self.read_history(connection)}:
            raise AdapterError(f"{script.name} is already applied")
        self.ensure_history(connection)
        self._insert(connection, script.name)

    def note_interrupted(self, connection: psycopg.Connection, name: str, text: str) -> None:
        """Nowhere to write it: what did not finish is simply not in the table."""


def version_of(name: str) -> str:
    found = FILE.match(f"{name}.sql")
    return found[1] if found else name


def _shared_versions(names: list[str]) -> list[str]:
    """Files that dbmate would never run: it takes the row of another one for theirs."""
    first: dict[str, str] = {}
    return [
        f"{name}.sql has the version of {first[version_of(name)]}.sql, and dbmate applies only one "
        "of the two: give it a version of its own"
        for name in names
        if first.setdefault(version_of(name), name) != name
    ]


@lru_cache(maxsize=4096)
def _script(name: str, text: str) -> MigrationScript:
    """dbmate parses a file when it applies it: one it would reject is refused, unless applied."""
    sections: Sections | None = None
    refusal = ""
    try:
        sections = read_sections(text)
    except AdapterError as error:
        refusal = str(error)
    executed = _executed(text, sections) if sections else ""
    statements = split_statements(executed)
    in_transaction = sections is None or sections.in_transaction
    outside = [s for s in statements if not s.is_transactional]
    opened = left_open(statements)
    if opened and not in_transaction:
        refusal = (
            f"line {opened.line} begins a transaction that the section does not end, so dbmate "
            "would say that it is applied and keep nothing of it: end it with COMMIT"
        )
    if in_transaction and outside:
        refusal = (
            f"line {outside[0].line} cannot run inside a transaction: write "
            "`-- migrate:up transaction:false`"
        )
    refusal = (
        refusal
        or not_sendable(executed, statements)
        or not_followed(statements, in_transaction=in_transaction)
    )
    return MigrationScript(
        name=name,
        file=f"{name}.sql",
        sql=text,
        checksum=hashlib.sha256(text.encode()).hexdigest(),
        statements=statements,
        is_atomic=in_transaction and not outside,
        refusal=refusal,
        executed=executed,
    )


def _executed(text: str, sections: Sections) -> str:
    """What is run, at the lines of the file."""
    return "\n" * text.count("\n", 0, sections.start) + sections.up_sql
