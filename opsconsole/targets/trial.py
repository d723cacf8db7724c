"""Try on the server what a restore will do there, in an empty database that is dropped again."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import psycopg
from psycopg import sql

from opsconsole.targets import server
from opsconsole.targets.dsn import Dsn
from opsconsole.targets.ownership import Ownership, out_of_reach

# Those that the catalogues leave in no doubt are not tried. Providers let roles make what the
# catalogues reserve for superusers.
DOUBTFUL = """
SELECT e.name FROM pg_available_extensions e
  JOIN pg_available_extension_versions v ON v.name = e.name AND v.version = e.default_version
 WHERE e.name = ANY(%s) AND e.name <> 'pg_cron' AND v.superuser AND NOT v.trusted
   AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
 ORDER BY e.name
"""


class Refused(NamedTuple):
    """What the role could not do, with the server's reason: `{extension: reason}`, and
    `{(schema, owner): reason}` for objects in that schema that it could not give to that owner.
    `superusers` are those of the owners to whom nobody should belong."""

    extensions: dict[str, str] = {}
    owners: dict[tuple[str, str], str] = {}
    superusers: frozenset[str] = frozenset()


class Trial(NamedTuple):
    """Where it is tried: the target's address, the name of the database that is made for it, and
    that of the sessions."""

    dsn: Dsn
    database: str
    application_name: str


def try_restore(trial: Trial, extensions: Collection[str], owned: Ownership | None) -> Refused:
    """What of a restore the address's role could not do on its server. Raises AdapterError.

    Without `owned` everything would belong to the role itself.
    """
    with _session(trial, trial.dsn.maintenance_database) as session:
        doubtful = [row[0] for row in session.execute(DOUBTFUL, [list(extensions)])]
        others = _of_others(session, owned) if owned else []
        if not doubtful and not others:
            return Refused()
    with empty_database(trial) as made:
        return Refused(
            _try_extensions(made, doubtful),
            _try_owners(made, owned.schemas, others) if owned else {},
            _superusers(made),
        )


@contextmanager
def empty_database(trial: Trial) -> Iterator[psycopg.Connection]:
    """A session in an empty database like the target's, which is dropped again. Raises AdapterError."""
    with _session(trial, trial.dsn.maintenance_database) as session:
        shape = server.read_shape(session, trial.dsn.database)
        server.drop_database(session, trial.database)
        server.create_database(session, trial.database, shape)
        try:
            with _session(trial, trial.database) as made:
                yield made
        finally:
            server.drop_database(session, trial.database)


def _session(trial: Trial, database: str) -> psycopg.Connection:
    return server.connect(trial.dsn, application_name=trial.application_name, database=database)


def _of_others(session: psycopg.Connection, owned: Ownership) -> list[tuple[str, str]]:
    """Schema and owner of objects that would have to be given away; a superuser can do that."""
    row = session.execute(
        "SELECT current_user, rolsuper FROM pg_roles WHERE rolname = current_user"
    ).fetchone()
    assert row is not None
    user, is_superuser = row
    return [
        (schema, owner) for schema, owner in owned.objects if owner != user and not is_superuser
    ]


def _try_extensions(session: psycopg.Connection, extensions: list[str]) -> dict[str, str]:
    refused = {}
    for name in extensions:
        try:
            session.execute(
                sql.SQL("CREATE EXTENSION IF NOT EXISTS {} CASCADE").format(sql.Identifier(name))
            )
        except psycopg.Error as error:
            refused[name] = server.reason_of(error)
    return refused


def _try_owners(
    session: psycopg.Connection, schemas: dict[str, str], pairs: list[tuple[str, str]]
) -> dict[tuple[str, str], str]:
    """As pg_restore does: a schema is made and given away, then what is in it. The rights on it
    come last, so they do not help."""
    strangers = out_of_reach(session, set(schemas.values()))
    refused = {}
    for schema, owner in pairs:
        statements = [sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema))]
        keeper = schemas.get(schema)
        if keeper and keeper not in strangers:
            statements.append(_given("SCHEMA", keeper, schema))
        statements += [
            sql.SQL("CREATE TABLE {} ()").format(sql.Identifier(schema, "opsconsole_trial")),
            _given("TABLE", owner, schema, "opsconsole_trial"),
        ]
        if not schema:
            statements = [
                sql.SQL("SELECT lo_create(1)").format(),
                sql.SQL("ALTER LARGE OBJECT 1 OWNER TO {}").format(sql.Identifier(owner)),
            ]
        try:
            with session.transaction(force_rollback=True):
                for statement in statements:
                    session.execute(statement)
        except psycopg.Error as error:
            refused[schema, owner] = server.reason_of(error)
    return refused


def _superusers(session: psycopg.Connection) -> frozenset[str]:
    return frozenset(
        row[0] for row in session.execute("SELECT rolname FROM pg_roles WHERE rolsuper")
    )


def _given(kind: str, owner: str, *name: str) -> sql.Composed:
    return sql.SQL("ALTER {} {} OWNER TO {}").format(
        sql.SQL(kind), sql.Identifier(*name), sql.Identifier(owner)
    )
