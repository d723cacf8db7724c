"""Sessions on a target's server, and what the server says of itself."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from opsconsole.exceptions import AdapterError
from opsconsole.targets.dsn import Dsn

APPLICATION_PREFIX = "opsconsole:"
NAME_BYTES = 63
DROP_ATTEMPTS = 3
SESSION_SECONDS = 15

# Which running server and which of its databases this is, for a role without any rights: when the
# server started, in microseconds, and the database's number.
IDENTITY = """
(extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint,
(SELECT oid::bigint FROM pg_database WHERE datname = current_database())
"""
Identity = tuple[int, int]

# One row, unless somebody else than the server itself answered when the session began: a pooler
# makes up its own number of the process. Then nothing is set either, because it would stay on the
# session for the application. client_connection_check_interval came with PostgreSQL 14. A role or
# database may have another style of dates, in which nothing here could be read; the order in which a
# date is understood stays.
SESSION = f"""
SELECT set_config('idle_in_transaction_session_timeout', '0', false),
       set_config('statement_timeout', %s, false),
       set_config('DateStyle', 'ISO', false),
       (SELECT set_config(name, %s, false) FROM pg_settings
         WHERE name = 'client_connection_check_interval'),
       {IDENTITY}
 WHERE pg_backend_pid() = %s OR %s
"""  # noqa: S608
POOLED = (
    "this address leads through a connection pooler (PgBouncer or the like), on whose sessions "
    "nothing can be held: give the server's own address, as for Prisma's directUrl. If a proxy is in "
    "between that keeps sessions apart, say so with pgbouncer=false in the address"
)
# What is wrong with one database of a server, and not with the server or with the role.
OF_ONE_DATABASE = re.compile(r'\bdatabase "|own database')
OTHER_MAINTENANCE_DATABASE = (
    "The console locks, creates and renames databases from %(database)s. Where this role cannot use "
    "it, name another database of the server in the address: ?maintenance_database=defaultdb"
)
FACTS = """
SELECT {identifier}, current_setting('server_version'),
       current_setting('server_version_num')::int, current_database(),
       pg_database_size(current_database()), current_user, r.rolsuper,
       r.rolcreatedb OR r.rolsuper, pg_has_role(current_user, d.datdba, 'USAGE'),
       pg_encoding_to_char(d.encoding), d.datcollate,
       (SELECT json_build_object(
               'pid', a.pid, 'user', coalesce(a.usename, ''), 'name', coalesce(a.application_name, ''),
               'client', CASE WHEN a.backend_start IS NOT NULL
                              THEN coalesce(host(a.client_addr), 'this machine') END,
               'state', a.state, 'since', a.backend_start)
          FROM pg_locks l JOIN pg_stat_activity a USING (pid)
         WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.database = d.oid
           AND l.classid::bigint = %(high)s AND l.objid::bigint = %(low)s
           AND l.pid <> pg_backend_pid() LIMIT 1),
       pg_is_in_recovery(),
       (SELECT CASE WHEN setting = 'on' THEN source ELSE '' END FROM pg_settings
         WHERE name = 'default_transaction_read_only'),
       pg_get_userbyid(d.datdba)::text, pg_has_role(current_user, d.datdba, '{membership}'),
       r.rolconnlimit, others.of_role, d.datconnlimit, others.of_database,
       current_setting('max_connections')::int
       - (SELECT sum(setting::int)::int FROM pg_settings
           WHERE name IN ('superuser_reserved_connections', 'reserved_connections')),
       others.of_server,
       CASE WHEN EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = %(schema)s)
            THEN '' ELSE %(schema)s END,
       pg_backend_pid() = %(pid)s
  FROM pg_database d, pg_roles r,
       LATERAL (SELECT count(*) FILTER (WHERE usesysid = r.oid) AS of_role,
                       count(*) FILTER (WHERE datid = d.oid) AS of_database,
                       count(*) AS of_server
                  FROM pg_stat_activity
                 WHERE usesysid IS NOT NULL
                   AND NOT starts_with(coalesce(application_name, ''), 'opsconsole:')) others
 WHERE d.datname = current_database() AND r.rolname = current_user
"""


@dataclass(frozen=True)
class ServerFacts:
    """What preflight and the state page show of a server. Sizes in bytes.

    `lock_holder` is the session that holds the advisory lock asked about: `pid`, `user`, `name`,
    `client`, `state` and `since` (when it connected, ISO 8601). The last three are None for a
    session that this role may not look at.

    `read_only_by` is where the server has default_transaction_read_only from, "" while it is off
    (`source` of pg_settings); `may_give_to_owner` whether the role can make a database that belongs
    to this one's owner. Of role, database and server: how many sessions each takes, -1 for no limit,
    and how many are there already, without the console's. `missing_schema` is the one asked about,
    where it is not there. `is_direct`: the server itself answered, with no pooler in between. The
    problems say why the maintenance database cannot be used and that no client tools fit, each ""
    where not.
    """

    version: str
    version_num: int
    system_identifier: str
    database: str
    size_bytes: int
    user: str
    is_superuser: bool
    may_create_databases: bool
    owns_database: bool
    encoding: str
    collate: str
    lock_holder: dict[str, Any] | None = None
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

    @property
    def major(self) -> int:
        return self.version_num // 10000

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"major": self.major}


def connect(
    dsn: Dsn,
    *,
    application_name: str,
    database: str | None = None,
    autocommit: bool = True,
    timeout_seconds: float = 0,
    client_check_ms: int = 1000,
) -> psycopg.Connection:
    """Open a session that the server ends soon after this process dies.

    A killed client's statement must not commit later: with client_connection_check_interval
    (`client_check_ms`) the server notices within a second. Raises AdapterError with the server's
    reason, when it is the console's own database, and when a pooler is in between.
    """
    try:
        connection = psycopg.connect(
            dsn.conninfo(application_name=application_name, database=database),
            autocommit=autocommit,
            prepare_threshold=None,
            keepalives_idle=5,
            keepalives_interval=2,
            keepalives_count=3,
        )
        with cut_off_after(SESSION_SECONDS, connection):
            row = connection.execute(
                SESSION,
                [
                    f"{int(timeout_seconds * 1000)}",
                    f"{client_check_ms}",
                    connection.info.backend_pid,
                    dsn.is_direct,
                ],
            ).fetchone()
            if not autocommit:
                connection.commit()
    except psycopg.Error as error:
        raise AdapterError(_why_not_reached(dsn, database, reason_of(error))) from error
    try:
        if row is None:
            raise AdapterError(POOLED)
        refuse_own((row[-2], row[-1]), dsn.own_database)
    except AdapterError as error:
        connection.close()
        raise AdapterError(_why_not_reached(dsn, database, str(error))) from error
    return connection


def _why_not_reached(dsn: Dsn, database: str | None, reason: str) -> str:
    """The reason, with the remedy where it is the maintenance database that cannot be had."""
    if database != dsn.maintenance_database or not OF_ONE_DATABASE.search(reason):
        return reason
    return f"{reason}. {OTHER_MAINTENANCE_DATABASE % {'database': database}}"


def guard(connection: psycopg.Connection, application_name: str) -> None:
    """Put back what a script may have altered in a session of `connect`, and has to hold.

    Its name, by which it is found and ended, and that the server notices when its client dies.
    Raises psycopg.OperationalError when the session is gone.
    """
    connection.execute("SELECT set_config('application_name', %s, false)", [application_name])
    if connection.info.server_version >= 140000:
        connection.execute("SET client_connection_check_interval = '1s'")


@contextmanager
def cut_off_after(seconds: float, connection: psycopg.Connection) -> Iterator[None]:
    """Shut the connection down from another thread when the block takes longer.

    The server's own timeouts end nothing where the server itself is stuck.
    """
    with socket.socket(fileno=os.dup(connection.fileno())) as line:

        def cut() -> None:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(seconds, cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()


def refuse_own(found: Identity, own: Identity | None) -> None:
    """Raise AdapterError when what was connected to is the console's own database."""
    if found == own:
        raise AdapterError(
            "this is the console's own database: it is neither migrated, restored nor asked"
        )


def reason_of(error: psycopg.Error) -> str:
    """One line: the SQLSTATE, the message and the detail, and never an address."""
    diagnostics = getattr(error, "diag", None)
    if diagnostics is not None and diagnostics.message_primary:
        detail = f" ({diagnostics.message_detail})" if diagnostics.message_detail else ""
        return f"{diagnostics.sqlstate} {diagnostics.message_primary}{detail}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # libpq: `connection to server at "host", port 1 failed: Connection refused`, then a question.
    failed = [line.rpartition("failed: ")[2] for line in lines if "failed: " in line]
    return (failed or lines or [type(error).__name__])[-1]


def read_facts(
    connection: psycopg.Connection, advisory_lock: int | None = None, schema: str = "pg_catalog"
) -> ServerFacts:
    """Read versions, identity, sizes and rights of the connected database, in one query.

    `advisory_lock` is the key, in this database, whose holder is wanted; `schema` one that should
    be there.
    """
    key = advisory_lock or 0
    asked = {
        "high": (key >> 32) & 0xFFFFFFFF,
        "low": key & 0xFFFFFFFF,
        "schema": schema,
        "pid": connection.info.backend_pid,
    }
    own = "(SELECT system_identifier::text FROM pg_control_system())"
    membership = _membership(connection)
    try:
        query = FACTS.format(identifier=own, membership=membership)
        row = connection.execute(query, asked).fetchone()
    except psycopg.errors.InsufficientPrivilege:
        query = FACTS.format(identifier="''", membership=membership)
        row = connection.execute(query, asked).fetchone()
    assert row is not None
    identifier, version, number, *rest = row
    return ServerFacts(version, number, identifier or system_identifier(connection), *rest)


def _membership(connection: psycopg.Connection) -> str:
    """What pg_has_role is asked for, to know whether this role can give something to another one.

    With PostgreSQL 16 a member may be one that cannot act as the role.
    """
    return "SET" if connection.info.server_version >= 160000 else "MEMBER"


def system_identifier(connection: psycopg.Connection) -> str:
    """The cluster's identifier; the address of the server where the role may not read it."""
    try:
        row = connection.execute("SELECT system_identifier FROM pg_control_system()").fetchone()
        assert row is not None
        return str(row[0])
    except psycopg.errors.InsufficientPrivilege:
        row = connection.execute(
            "SELECT oid::text || (SELECT min(oid)::text FROM pg_tablespace) FROM pg_database"
            " WHERE datname = 'template0'"
        ).fetchone()
        return f"{connection.info.host}:{connection.info.port}:{row[0] if row else ''}"[:32]


def lock_key(database: str) -> int:
    """The 64-bit advisory lock key of a target, held in the maintenance database.

    Advisory locks are per database, and one inside the target would stop its own rename.
    """
    digest = hashlib.sha256(f"opsconsole:{database}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


class TargetLock:
    """The one session that keeps every other run, of any console, from changing the target."""

    def __init__(self, dsn: Dsn, application_name: str) -> None:
        self.connection = connect(
            dsn, application_name=application_name, database=dsn.maintenance_database
        )
        self._key = lock_key(dsn.database)

    def acquire(self) -> None:
        """Take it now; raises AdapterError naming the session that holds it.

        It counts on the whole server: another console may hold it in another maintenance database.
        Of two that take it at once, each in its own, one is refused for certain, and perhaps both.
        """
        row = self.connection.execute("SELECT pg_try_advisory_lock(%s)", [self._key]).fetchone()
        assert row is not None
        holder = self._holder()
        if holder or not row[0]:
            raise AdapterError(f"another session is changing this database: {holder or 'unknown'}")

    def check(self) -> None:
        """Raise AdapterError if the session, and with it the lock, is gone."""
        try:
            self.connection.execute("SELECT 1")
        except psycopg.Error as error:
            raise AdapterError(f"the lock on the target was lost: {reason_of(error)}") from error

    def release(self) -> None:
        self.connection.close()

    def _holder(self) -> str:
        row = self.connection.execute(
            """
            SELECT concat(coalesce(nullif(a.application_name, ''), 'unknown'), ' (process ', l.pid, ')')
              FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
             WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
               AND l.classid::bigint = %s AND l.objid::bigint = %s AND l.pid <> pg_backend_pid()
            """,
            [(self._key >> 32) & 0xFFFFFFFF, self._key & 0xFFFFFFFF],
        ).fetchone()
        return row[0] if row else ""


def sessions(connection: psycopg.Connection, database: str, prefix: str = "") -> list[dict]:
    """Client sessions in a database (of names starting with `prefix`), oldest first."""
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            """
            SELECT pid, usename, application_name, state, left(query, 200) AS query,
                   extract(epoch FROM now() - xact_start)::float AS transaction_seconds
              FROM pg_stat_activity
             WHERE datname = %s AND pid <> pg_backend_pid() AND backend_type = 'client backend'
               AND starts_with(coalesce(application_name, ''), %s)
             ORDER BY backend_start
            """,
            [database, prefix],
        )
        return cursor.fetchall()


def end_sessions(connection: psycopg.Connection, prefix: str, *, seconds: float = 10) -> list[int]:
    """End our own sessions anywhere on the server by name; returns pids still there after."""
    deadline = time.monotonic() + seconds
    while True:
        rows = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE starts_with(application_name, %s)"
            " AND pid <> pg_backend_pid()",
            [prefix],
        ).fetchall()
        left = [row[0] for row in rows]
        if not left or time.monotonic() > deadline:
            return left
        for pid in left:
            terminate(connection, pid)
        time.sleep(0.05)


def wait_for_sessions_end(connection: psycopg.Connection, name: str, seconds: float) -> None:
    """Wait until no session bears the name, at most so long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        row = connection.execute(
            "SELECT 1 FROM pg_stat_activity WHERE application_name = %s LIMIT 1", [name]
        ).fetchone()
        if row is None:
            return
        time.sleep(0.1)


def terminate(connection: psycopg.Connection, pid: int) -> None:
    """End one session. One that we may not end is left for the caller to find still there."""
    try:
        connection.execute("SELECT pg_terminate_backend(%s)", [pid])
    except psycopg.errors.InsufficientPrivilege:
        connection.rollback()


def name_beside(database: str, suffix: str) -> str:
    """`database` + `suffix` within PostgreSQL's 63 bytes: the base is shortened, never the suffix."""
    room = NAME_BYTES - len(suffix.encode())
    return database.encode()[:room].decode(errors="ignore") + suffix


def database_oid(connection: psycopg.Connection, name: str) -> int | None:
    row = connection.execute("SELECT oid FROM pg_database WHERE datname = %s", [name]).fetchone()
    return int(row[0]) if row else None


def database_name(connection: psycopg.Connection, oid: int) -> str | None:
    row = connection.execute("SELECT datname FROM pg_database WHERE oid = %s", [oid]).fetchone()
    return str(row[0]) if row else None


@dataclass(frozen=True)
class DatabaseShape:
    """What an empty database like another one is made with. No `owner`: who makes it owns it, as
    where this role cannot give it to the other one's owner. No `tablespace`: the server's default.
    """

    encoding: str
    collate: str
    ctype: str
    owner: str | None
    provider: str | None
    locale: str | None
    tablespace: str | None


def read_shape(connection: psycopg.Connection, name: str) -> DatabaseShape:
    """Read a database's shape; raises AdapterError when there is no such database.

    Its tablespace only where this role may make another one there.
    """
    row = connection.execute(
        """
        SELECT pg_encoding_to_char(encoding), datcollate, datctype,
               CASE WHEN pg_has_role(current_user, datdba, %s) THEN pg_get_userbyid(datdba) END,
               to_jsonb(d)->>'datlocprovider',
               coalesce(to_jsonb(d)->>'datlocale', to_jsonb(d)->>'daticulocale'),
               (SELECT spcname FROM pg_tablespace t
                 WHERE t.oid = d.dattablespace AND has_tablespace_privilege(t.oid, 'CREATE'))
          FROM pg_database d WHERE datname = %s
        """,
        [_membership(connection), name],
    ).fetchone()
    if row is None:
        raise AdapterError(f"there is no database {name}")
    return DatabaseShape(*row)


def create_database(connection: psycopg.Connection, name: str, shape: DatabaseShape) -> None:
    """Create an empty database of that shape; raises AdapterError with the server's reason.

    Uses template0 (PostgreSQL's documentation of CREATE DATABASE: only it takes any encoding).
    """
    clauses = sql.SQL(
        "CREATE DATABASE {} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}"
    ).format(
        sql.Identifier(name),
        sql.Literal(shape.encoding),
        sql.Literal(shape.collate),
        sql.Literal(shape.ctype),
    )
    if shape.owner:
        clauses += sql.SQL(" OWNER {}").format(sql.Identifier(shape.owner))
    if shape.tablespace:
        clauses += sql.SQL(" TABLESPACE {}").format(sql.Identifier(shape.tablespace))
    locale = sql.Literal(shape.locale)
    if shape.provider == "i":
        clauses += sql.SQL(" LOCALE_PROVIDER icu ICU_LOCALE {}").format(locale)
    elif shape.provider == "b":
        clauses += sql.SQL(" LOCALE_PROVIDER builtin BUILTIN_LOCALE {}").format(locale)
    try:
        connection.execute(clauses)
    except psycopg.Error as error:
        raise AdapterError(f"cannot create database {name}: {reason_of(error)}") from error


def rename_database(connection: psycopg.Connection, name: str, new_name: str) -> None:
    """Rename a database without sessions; raises AdapterError with the server's reason."""
    try:
        connection.execute(
            sql.SQL("ALTER DATABASE {} RENAME TO {}").format(
                sql.Identifier(name), sql.Identifier(new_name)
            )
        )
    except psycopg.Error as error:
        raise AdapterError(f"cannot rename database {name}: {reason_of(error)}") from error


def _let_be_dropped(connection: psycopg.Connection, name: str) -> None:
    """A template is not dropped, and a replacement takes that over from the live database."""
    row = connection.execute(
        "SELECT 1 FROM pg_database WHERE datname = %s AND datistemplate", [name]
    ).fetchone()
    if row:
        connection.execute(
            sql.SQL("ALTER DATABASE {} IS_TEMPLATE false").format(sql.Identifier(name))
        )


def drop_database(connection: psycopg.Connection, name: str) -> None:
    """Drop a database of ours if it is there, ending its sessions.

    Not WITH (FORCE): that is refused to a role that is no superuser while autovacuum is at work
    in the database, whereas a plain DROP ends autovacuum by itself (PostgreSQL's
    CountOtherDBBackends).
    """
    if database_oid(connection, name) is None:
        return
    for attempt in range(1, DROP_ATTEMPTS + 1):
        for session in sessions(connection, name):
            terminate(connection, session["pid"])
        try:
            _let_be_dropped(connection, name)
            connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))
        except psycopg.errors.ObjectInUse as error:
            if attempt == DROP_ATTEMPTS:
                raise AdapterError(f"cannot drop database {name}: {reason_of(error)}") from error
        except psycopg.Error as error:
            raise AdapterError(f"cannot drop database {name}: {reason_of(error)}") from error
        else:
            return
