"""dbmate 2: its folder of `VERSION_name.sql` files and its `schema_migrations` table.

Sources: dbmate's README, and the tool itself (2.36), which must agree with every row written
here. It keeps versions only: no checksums, no times, no failures, and it takes no lock.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from functools import lru_cache

import psycopg
from psycopg import sql

from migrations_app.engines.applying import Applying
from migrations_app.engines.folder import read_script
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
from migrations_app.engines.statements import split_statements
from opsconsole.exceptions import AdapterError

TABLE = "schema_migrations"
FILE = re.compile(r"^(\d+).*\.sql$")
UP = re.compile(r"^--\s*migrate:up(?P<options>[^\n]*)$", re.MULTILINE)
DOWN = re.compile(r"^--\s*migrate:down[^\n]*$", re.MULTILINE)


class DbmateEngine(Engine):
    """See `Engine`; the folder is `db/migrations`."""

    label = tool = "dbmate"
    history_table = TABLE
    records_starts = False

    @property
    def table(self) -> sql.Identifier:
        return sql.Identifier(self.schema, TABLE)

    # -- the folder

    def read_folder(self) -> FolderReading:
        scripts, problems = [], []
        for name in self._names():
            try:
                text = read_script(self.folder / f"{name}.sql", self.folder)
                scripts.append(_script(name, text))
            except AdapterError as error:
                problems.append(f"{name}.sql {error}")
        return FolderReading(scripts, problems)

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
                id=str(version), name=names.get(version, str(version)), checksum="",
                started_at=None, finished_at=None, rolled_back_at=None, logs=None, steps=1,
            )
            for (version,) in rows
        ]  # fmt: skip

    def compare(
        self, scripts: list[MigrationScript], rows: list[AppliedMigration], *, is_locked: bool
    ) -> list[MigrationState]:
        on_disk = {script.name: script for script in scripts}
        applied = {row.name: row for row in rows}
        newest = max(applied, default="")
        states = []
        for name in sorted(on_disk.keys() | applied.keys()):
            if name in applied:
                state = "applied" if name in on_disk else "missing_locally"
            else:
                state = "out_of_order" if name < newest else "pending"
            states.append(MigrationState(name, state, on_disk.get(name), applied.get(name)))
        return states

    def tool_verdict(self, states: list[MigrationState]) -> ToolVerdict:
        """`dbmate status` lists the files it finds, and nothing that is only in the table."""
        shown = [s for s in states if s.state != "missing_locally"]
        pending = [s for s in shown if s.state != "applied"]
        says = f"Applied: {len(shown) - len(pending)}, Pending: {len(pending)}"
        silent = tuple(s.name for s in states if s.state in {"missing_locally", "out_of_order"})
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

    # -- applying

    def apply(
        self,
        connection: psycopg.Connection,
        script: MigrationScript,
        limits: Limits,
        log: Log,
        sleep: Callable[[float], None],
    ) -> Outcome:
        if self.schema != "public":
            connection.execute(sql.SQL("SET search_path TO {}").format(sql.Identifier(self.schema)))
        return Applying(
            connection, script, limits, log, sleep,
            finish=lambda: self._insert(connection, script.name),
        ).run()  # fmt: skip

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


@lru_cache(maxsize=4096)
def _script(name: str, text: str) -> MigrationScript:
    executed, options = _up_block(text)
    statements = split_statements(executed)
    in_transaction = "transaction:false" not in options
    outside = [s for s in statements if not s.is_transactional]
    refusal = ""
    if in_transaction and outside:
        refusal = (
            f"line {outside[0].line} cannot run inside a transaction: write "
            "`-- migrate:up transaction:false`"
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


def _up_block(text: str) -> tuple[str, str]:
    """What `dbmate up` runs, at its own lines, and its options. Raises AdapterError without it."""
    up, down = UP.search(text), DOWN.search(text)
    if up is None:
        raise AdapterError("has no `-- migrate:up` block")
    if down is None:
        raise AdapterError("has no `-- migrate:down` block, which dbmate asks for")
    if down.start() < up.start():
        raise AdapterError("has its `-- migrate:down` block before `-- migrate:up`")
    before = "\n" * text.count("\n", 0, up.end())
    return before + text[up.end() : down.start()], up["options"].strip()
