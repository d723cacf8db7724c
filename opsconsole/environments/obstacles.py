"""What stands in the way of the console's work on a target, and the remedy of each. Pure.

The connection test shows all of it; a run refuses, before it dumps or changes anything, what stops
that run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import Enum, auto

from psycopg import sql

from opsconsole.environments.readings import ServerRead
from opsconsole.exceptions import StepFailed
from opsconsole.sentences import Text, say, say_count


class Need(Enum):
    """What a run does with a target."""

    DUMP = auto()
    BUILD = auto()  # a database beside it
    EXCHANGE = auto()  # the names of the two
    MIGRATE = auto()


EVERYTHING = frozenset(Need)
BESIDE = frozenset({Need.BUILD, Need.EXCHANGE})
# Sessions of one run at the same time, with one of a reading or a health check beside it. A run that
# changes the target has two that a backup has not: the lock, and the measuring of availability.
SESSIONS = 6
SESSIONS_OF_A_BACKUP = 4
READ_ONLY = "default_transaction_read_only"


@dataclass(frozen=True)
class Obstacle:
    """`stops` is what cannot be done; with nothing in it, it is only told. `about` is one word,
    `remedy` what to do, `command` what a superuser has to run."""

    about: str
    text: Text
    stops: frozenset[Need] = frozenset()
    remedy: Text = ""
    command: str = ""

    @property
    def sentence(self) -> Text:
        """All of it in one."""
        command = self.command.removesuffix(";")
        remedy = self.remedy or command
        if self.remedy and command:
            remedy = say("%(remedy)s %(command)s", remedy=self.remedy, command=command)
        return say("%(what)s %(remedy)s", what=self.text, remedy=remedy) if remedy else self.text


def obstacles(server: ServerRead, *, sessions: int = SESSIONS) -> list[Obstacle]:
    """Everything that stands in the way. `sessions` is how many a run may open at once."""
    return [
        *_standby(server),
        *_read_only(server),
        *_maintenance(server),
        *_databases(server),
        *_owner(server),
        *_sessions(server, sessions),
        *_tools(server),
        *_schema(server),
        *_encoding(server),
    ]


def refuse_obstacles(
    server: ServerRead, needs: Collection[Need], *, sessions: int = SESSIONS
) -> None:
    """Raise StepFailed with the first obstacle, and its remedy, to what is needed."""
    for obstacle in obstacles(server, sessions=sessions):
        if obstacle.stops.intersection(needs):
            raise StepFailed(obstacle.sentence)


def _standby(server: ServerRead) -> Iterator[Obstacle]:
    if server.in_recovery:
        yield Obstacle(
            "server",
            say("This server is a standby: it is read-only until it is promoted."),
            EVERYTHING - {Need.DUMP},
            say("Give the address of the primary."),
        )


def _read_only(server: ServerRead) -> Iterator[Obstacle]:
    if not server.read_only_by:
        return
    role, database = _quoted(server.user), _quoted(server.database)
    command = {
        "database": f"ALTER DATABASE {database} RESET {READ_ONLY};",
        "user": f"ALTER ROLE {role} RESET {READ_ONLY};",
        "database user": f"ALTER ROLE {role} IN DATABASE {database} RESET {READ_ONLY};",
        "client": "",
    }.get(server.read_only_by, f"ALTER SYSTEM SET {READ_ONLY} = off; SELECT pg_reload_conf();")
    is_here = server.read_only_by in {"database", "database user"}
    yield Obstacle(
        "read-only",
        say(
            "Transactions are read-only by default (%(setting)s, set for: %(source)s).",
            setting=READ_ONLY,
            source=server.read_only_by,
        ),
        frozenset({Need.MIGRATE}) if is_here else EVERYTHING - {Need.DUMP},
        "" if command else say("Take it out of the options in the address."),
        command,
    )


def _maintenance(server: ServerRead) -> Iterator[Obstacle]:
    if server.maintenance_problem:
        yield Obstacle("maintenance", server.maintenance_problem, EVERYTHING - {Need.DUMP})
    elif server.maintenance_database and server.maintenance_database == server.database:
        yield Obstacle(
            "maintenance",
            say(
                "%(database)s is also the database from which it would be renamed, and no session "
                "can rename the one it is in: it can neither be restored nor go back.",
                database=server.database,
            ),
            frozenset({Need.EXCHANGE}),
            say("Name another database of the server in the address: ?maintenance_database=NAME"),
        )


def _databases(server: ServerRead) -> Iterator[Obstacle]:
    if not server.may_create_databases:
        yield Obstacle(
            "rights",
            say(
                "The role %(role)s may not create databases: no backup can be proven here, and "
                "nothing restored.",
                role=server.user,
            ),
            BESIDE,
            say(
                "Where the host does not allow a second database, prove backups on a scratch "
                "server, restore into another server and point the application there. Else:"
            ),
            f"ALTER ROLE {_quoted(server.user)} CREATEDB;",
        )


def _owner(server: ServerRead) -> Iterator[Obstacle]:
    # Not by making the role a member of the owner, which may be a superuser.
    command = f"ALTER DATABASE {_quoted(server.database)} OWNER TO {_quoted(server.user)};"
    if not server.owns_database:
        yield Obstacle(
            "rights",
            say(
                "The role %(role)s does not own the database %(database)s: it can neither exchange "
                "it for a restored one nor go back.",
                role=server.user,
                database=server.database,
            ),
            frozenset({Need.EXCHANGE}),
            command=command,
        )
    elif not server.may_give_to_owner:
        yield Obstacle(
            "rights",
            say(
                "The role %(role)s cannot make a database that %(owner)s owns, as %(owner)s owns "
                "%(database)s: what it restores could not take its place.",
                role=server.user,
                database=server.database,
                owner=server.owner,
            ),
            frozenset({Need.EXCHANGE}),
            command=command,
        )


def _sessions(server: ServerRead, needed: int) -> Iterator[Obstacle]:
    if server.is_superuser:
        return
    role, database = _quoted(server.user), _quoted(server.database)
    for what, limit, taken, command in (
        (say("the role %(role)s", role=server.user), server.role_limit, server.role_sessions,
         f"ALTER ROLE {role} CONNECTION LIMIT {server.role_sessions + needed};"),
        (say("the database %(database)s", database=server.database), server.database_limit,
         server.database_sessions,
         f"ALTER DATABASE {database} CONNECTION LIMIT {server.database_sessions + needed};"),
        (say("the server"), server.server_limit, server.server_sessions, ""),
    ):  # fmt: skip
        if 0 <= limit < taken + needed:
            yield Obstacle(
                "sessions",
                say_count(
                    "A run may need %(count)s session at once: %(what)s takes %(limit)s, of which "
                    "others have %(taken)s.",
                    "A run may need %(count)s sessions at once: %(what)s takes %(limit)s, of which "
                    "others have %(taken)s.",
                    needed,
                    what=what,
                    limit=limit,
                    taken=taken,
                ),
                EVERYTHING,
                "" if command else say("End idle sessions, or raise max_connections."),
                command,
            )


def _tools(server: ServerRead) -> Iterator[Obstacle]:
    if server.tools_problem:
        yield Obstacle(
            "tools",
            server.tools_problem,
            EVERYTHING - {Need.MIGRATE},
            say(
                "Until then it can be read, and migrated where no backup is asked for; nothing can "
                "be backed up or restored."
            ),
        )


def _schema(server: ServerRead) -> Iterator[Obstacle]:
    if server.missing_schema:
        yield Obstacle(
            "schema",
            say(
                "The database has no schema %(schema)s, which the address asks for.",
                schema=server.missing_schema,
            ),
            frozenset({Need.MIGRATE}),
            say("Correct schema= in the address, or make it:"),
            f"CREATE SCHEMA {_quoted(server.missing_schema)};",
        )


def _encoding(server: ServerRead) -> Iterator[Obstacle]:
    if server.encoding == "SQL_ASCII":
        yield Obstacle(
            "encoding",
            say(
                "The database's encoding is SQL_ASCII: the server does not know what its texts are "
                "written in. Backups copy them byte by byte; the console reads names as UTF-8."
            ),
        )


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string()
