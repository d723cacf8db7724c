"""What comes of the operations on backups, as stored with their runs."""

from __future__ import annotations

from pydantic import Field

from opsconsole.runs.documents import Result


class WithBackup(Result):
    """Of whatever takes or proves a backup: its id."""

    backup: int | None = None


class WithReplaced(Result):
    """Of whatever exchanges databases: the name under which the replaced one is kept, and what
    belonged to it and the other has not, whether that was consented to or stopped the exchange."""

    replaced: str | None = None
    left_behind: list[str] = Field(default_factory=list)


class RestoreResult(WithBackup, WithReplaced):
    """`backup` is the one taken before the exchange, where one was asked for."""


class RestoreAsResult(Result):
    """`database` is the new database, once it is there under its own name."""

    database: str | None = None


class PruneResult(Result):
    deleted: int = 0
