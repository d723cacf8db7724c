"""What comes of the operations on migrations, as stored with their runs."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel

from backups_app.runs.results import WithBackup, WithReplaced
from migrations_app.engines.kinds import Statement
from opsconsole.runs.documents import Result
from opsconsole.sentences import Sentence, say


class Landed(BaseModel):
    """A statement of a failed script that took effect nevertheless."""

    line: int
    text: str

    @classmethod
    def each(cls, statements: list[Statement]) -> list[Self]:
        return [cls(line=one.line, text=one.shown) for one in statements]


class FailedScript(BaseModel):
    """The script that ended the run, and the statement at which it failed."""

    name: str
    file: str
    line: int
    statement: str
    reason: str
    is_atomic: bool


class WithSchema(Result):
    """Of whatever changes the schema: `schema_before` is the hash of what it began with."""

    schema_before: str = ""


class FinishResult(WithBackup, WithSchema):
    """Of a failed script that was finished."""


class MigrateResult(WithBackup, WithReplaced, WithSchema):
    """`applied` is None until the first script is about to be applied, `migrating` true until the
    last one is. `own_writes` and `writes_since_backup` count rows, the latter those of others.
    `timings` holds for each script when it ended (ISO 8601), and how many seconds it took.
    """

    applied: list[str] | None = None
    migrating: bool = False
    own_writes: int | None = None
    landed: list[Landed] | None = None
    timings: dict[str, tuple[str, float]] | None = None
    failed_script: FailedScript | None = None
    schema_changes: list[str] | None = None
    writes_since_backup: int | None = None

    def begin(self) -> None:
        """From now on the scripts of the plan are being applied."""
        self.applied, self.landed, self.timings = [], [], {}
        self.own_writes, self.migrating = 0, True

    def add_writes(self, rows: int) -> None:
        self.own_writes = (self.own_writes or 0) + rows

    @property
    def applied_before(self) -> Sentence:
        """What of the plan is in the database."""
        if not self.applied:
            return say("No migration was applied.")
        return say("Applied before it and still there: %(names)s.", names=", ".join(self.applied))
