"""What a worker read of a target, typed: the part of it that every room may read.

It is stored in `TargetState.data` and may be of any earlier version: what that did not know has
a default, and what this one does not know stays where it is stored.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from opsconsole.environments.migration_status import MigrationStatus


class Part(BaseModel):
    """A part of a reading. `model_dump(mode="json", exclude_unset=True)` is what is stored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class SessionRead(Part):
    """A session that holds the tool's lock; what the target's role may not see of it is None.

    `since` is when it connected, as the server wrote it: it is compared as it is.
    """

    pid: int
    user: str = ""
    name: str = ""
    client: str | None = None
    state: str | None = None
    since: str | None = None

    @property
    def connected_at(self) -> datetime | None:
        return datetime.fromisoformat(self.since) if self.since else None


class ServerRead(Part):
    """What preflight and the pages show of a server, as `ServerFacts` says. Sizes in bytes, None if
    not known."""

    version: str = ""
    version_num: int = 0
    major: int = 0
    system_identifier: str = ""
    database: str = ""
    size_bytes: int | None = None
    user: str = ""
    is_superuser: bool = False
    may_create_databases: bool = False
    owns_database: bool = False
    encoding: str = ""
    collate: str = ""
    lock_holder: SessionRead | None = None
    in_recovery: bool = False
    read_only_by: str = ""
    owner: str = ""
    may_give_to_owner: bool = True
    role_limit: int = -1
    role_sessions: int = 0
    database_limit: int = -1
    database_sessions: int = 0
    server_limit: int = -1
    server_sessions: int = 0
    missing_schema: str = ""
    is_direct: bool = False
    maintenance_database: str = ""
    maintenance_problem: str = ""
    tools_problem: str = ""


class BaselineMissing(Part):
    """Tables are there, and no history says how they came to be: the next migration would fail.

    `table` is one of them, and `file` the migration that would create it again, "" when none does
    and the tool itself refuses. `command` is what a person runs for each migration whose tables
    are there already, written out for one.
    """

    tool: str
    table: str
    file: str = ""
    command: str = ""


class MigrationSeen(Part):
    """One migration, and where it stands."""

    name: str
    state: MigrationStatus


class TargetRead(Part):
    """Empty where the target could not be read."""

    server: ServerRead | None = None
    migrations: tuple[MigrationSeen, ...] = ()
    tool_version: str = ""
    baseline: BaselineMissing | None = None
