"""What every engine speaks: scripts on disk, rows of the history table, the two compared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import psycopg

from opsconsole.environments.migration_status import MigrationStatus
from opsconsole.exceptions import AdapterError

Log = Callable[[str, str], None]


@dataclass(frozen=True)
class Statement:
    """One SQL statement of a script. `line` is where it starts, counted from 1."""

    line: int
    text: str
    kind: str
    is_transactional: bool = True
    # The index that CREATE INDEX CONCURRENTLY names, if it names one.
    concurrent_index: str = ""

    @property
    def shown(self) -> str:
        """One line of at most 120 characters."""
        flat = " ".join(self.text.split())
        return flat if len(flat) <= 120 else f"{flat[:119]}…"


@dataclass(frozen=True)
class MigrationScript:
    """One migration on disk. `refusal` says why the project's own tool would reject it.

    `sql` is the whole file; `executed` the part of it that is run, "" when that is all of it.
    `is_atomic`: it is run in one transaction, and leaves nothing when it fails.
    """

    name: str
    file: str
    sql: str
    checksum: str
    statements: tuple[Statement, ...]
    is_atomic: bool
    refusal: str = ""
    executed: str = ""

    @property
    def text(self) -> str:
        """What is run."""
        return self.executed or self.sql


@dataclass(frozen=True)
class Revision:
    """The commit that a folder was read from, and the branch or tag that led to it."""

    ref: str
    commit: str
    subject: str
    author: str
    committed_at: datetime

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "committed_at": self.committed_at.isoformat()}


@dataclass(frozen=True)
class FolderReading:
    """What a migrations folder holds; `problems` stop every migration from it."""

    scripts: list[MigrationScript]
    problems: list[str]
    tool_version: str = ""


@dataclass(frozen=True)
class AppliedMigration:
    """One row of the history table. No start: the tool keeps rows of applied ones only."""

    id: str
    name: str
    checksum: str
    started_at: datetime | None
    finished_at: datetime | None
    rolled_back_at: datetime | None
    logs: str | None
    steps: int

    @property
    def is_applied(self) -> bool:
        is_finished = self.finished_at is not None or self.started_at is None
        return is_finished and self.rolled_back_at is None

    @property
    def is_unfinished(self) -> bool:
        """Neither finished nor marked rolled back: it failed, or runs now."""
        return not self.is_applied and self.rolled_back_at is None


@dataclass(frozen=True)
class MigrationState:
    """One migration name, as folder and history together say it is.

    Its state is one that is found, not one that only the board shows.
    """

    name: str
    state: MigrationStatus
    script: MigrationScript | None = None
    row: AppliedMigration | None = None
    resolved_by_hand: bool = False
    # Pending again, after its failure was marked rolled back.
    was_rolled_back: bool = False

    def as_dict(self) -> dict[str, Any]:
        """As stored in a TargetState; the SQL itself is stored by its hash."""
        script, row = self.script, self.row
        return {
            "name": self.name,
            "state": self.state.value,
            "checksum": script.checksum if script else (row.checksum if row else ""),
            "applied_checksum": row.checksum if row else "",
            "file": script.file if script else "",
            "is_atomic": script.is_atomic if script else None,
            "statements": len(script.statements) if script else None,
            # An applied file is not run again, and the tool no longer looks into it.
            "refusal": script.refusal if script and not row else "",
            "by_hand": self.resolved_by_hand,
            "was_rolled_back": self.was_rolled_back,
            "started_at": row.started_at.isoformat() if row and row.started_at else None,
            "finished_at": row.finished_at.isoformat() if row and row.finished_at else None,
            "logs": (row.logs or "") if row else "",
        }


@dataclass(frozen=True)
class ToolVerdict:
    """What the tool's status command would print, and the names whose trouble it does not show."""

    command: str
    says: str
    is_silent_on: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {
            "command": self.command,
            "says": self.says,
            "is_silent_on": list(self.is_silent_on),
        }


@dataclass
class Outcome:
    """What applying a script did. `rows_written` counts our own rows, to be subtracted."""

    landed: list[Statement] = field(default_factory=list)
    rows_written: int = 0


class ScriptFailed(AdapterError):
    """A statement failed, and what landed is known."""

    def __init__(
        self,
        script: MigrationScript,
        line: int,
        statement: Statement,
        reason: str,
        outcome: Outcome,
    ) -> None:
        super().__init__(f"{script.file} line {line}: {reason}")
        self.script = script
        self.line = line
        self.statement = statement
        self.reason = reason
        self.outcome = outcome


class ScriptUnknown(AdapterError):
    """Whether a statement took effect is not known: its effect is not bound to the history row."""

    def __init__(
        self,
        script: MigrationScript,
        statement: Statement,
        outcome: Outcome,
        reason: str = "the connection was lost while it ran",
    ) -> None:
        super().__init__(f"{script.file} line {statement.line}: {reason}")
        self.script = script
        self.statement = statement
        self.outcome = outcome


@dataclass(frozen=True)
class Limits:
    """Waits, in seconds: what an environment's policy lets a migration take.

    `lock_timeout`: one wait for a lock, given up and tried again for at most `lock_patience`.
    `blocking`: how long the application's sessions may wait behind the migration.
    """

    lock_timeout: float = 2
    lock_patience: float = 300
    blocking: float = 3
    statement_timeout: float = 3600
    tool_lock_wait: float = 10


class Engine(ABC):
    """Reads one tool's folder and history table, and applies its scripts as the tool would.

    `schema` is where the tool keeps its history table, which is named `history_table`.
    `revision` says which commit the folder holds; None for a folder that is not from git.
    """

    # Marked for translation; it is translated where it is shown.
    label: ClassVar[str]
    # The tool's name, in sentences.
    tool: ClassVar[str]
    # The key of the advisory lock that the tool holds while it works, None without one.
    advisory_lock: ClassVar[int | None] = None
    history_table: ClassVar[str]
    # Whether the tool takes no database that has tables and no history table.
    refuses_tables: ClassVar[bool] = False
    # Whether the history says that a script was begun, before it is finished.
    records_starts: ClassVar[bool] = True

    def __init__(
        self, folder: Path, schema: str = "public", revision: Revision | None = None
    ) -> None:
        self.folder = folder
        self.schema = schema
        self.revision = revision

    # Where the tool keeps its migrations unless told otherwise.
    usual_folder: ClassVar[str] = ""

    @classmethod
    def folder_of(cls, path: PurePosixPath) -> PurePosixPath | None:
        """The migrations folder that a file at that path would be part of, None for no such file.

        What is in the file is not looked at. An engine that reads another one's files claims none.
        """
        return None

    @abstractmethod
    def read_folder(self) -> FolderReading:
        """Read the scripts in the tool's order. Raises AdapterError when it cannot be read."""

    @classmethod
    @abstractmethod
    def script_of(cls, name: str, text: str) -> MigrationScript:
        """The script of that name whose file holds `text`. Raises AdapterError if none could."""

    @classmethod
    def draft_text(cls, sql: str) -> str:
        """The text of a new file of the tool's form that runs `sql`."""
        return sql

    @abstractmethod
    def read_history(self, connection: psycopg.Connection) -> list[AppliedMigration]:
        """All rows of the history table, oldest first; empty when there is no table."""

    @abstractmethod
    def compare(
        self, scripts: list[MigrationScript], rows: list[AppliedMigration], *, is_locked: bool
    ) -> list[MigrationState]:
        """The state of every name. `is_locked`: the tool's own lock is held by somebody."""

    @abstractmethod
    def tool_verdict(self, states: list[MigrationState]) -> ToolVerdict:
        """What the tool's own status command says of these states, and which it is silent on."""

    @abstractmethod
    def take_lock(self, connection: psycopg.Connection, limits: Limits, sleep: Callable) -> None:
        """Take the tool's lock on this session, polling. Raises AdapterError when it is held."""

    @abstractmethod
    def ensure_history(self, connection: psycopg.Connection) -> None:
        """Create the history table if it is missing and the tool would create it too."""

    @abstractmethod
    def baseline_command(self, name: str) -> str:
        """What a person runs to record that migration as applied, where there is no history."""

    @abstractmethod
    def begin_session(self, connection: psycopg.Connection) -> None:
        """Make of a new session what the tool makes of its own, before its first script."""

    @abstractmethod
    def apply(
        self,
        connection: psycopg.Connection,
        script: MigrationScript,
        limits: Limits,
        log: Log,
        sleep: Callable[[float], None],
    ) -> Outcome:
        """Apply one script and write its history row. Raises ScriptFailed or ScriptUnknown.

        What the script leaves in the session (settings, temporary tables) it leaves to the next
        one, as with the tool; where the tool would have stopped, the next finds a search path as
        `begin_session` makes it. Nothing of ours stays behind.
        """

    def session_names(self, name: str) -> list[str]:
        """Names of the sessions that apply a script, where that of the connection is `name`."""
        return [name]

    @abstractmethod
    def mark_rolled_back(self, connection: psycopg.Connection, name: str) -> None:
        """Let a failed migration be pending again. Raises AdapterError if it did not fail."""

    @abstractmethod
    def mark_applied(self, connection: psycopg.Connection, script: MigrationScript) -> None:
        """Record a migration as applied without running it. Raises AdapterError if it is."""

    @abstractmethod
    def note_interrupted(self, connection: psycopg.Connection, name: str, text: str) -> None:
        """Write into an unfinished row why it is unfinished."""
