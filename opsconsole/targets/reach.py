"""What a role may touch besides what it makes: code that it runs may touch as much."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import psycopg

from opsconsole.sentences import Text, say

REACH = """
SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint,
       r.rolname, r.rolsuper, r.rolcreaterole, r.rolreplication, r.rolbypassrls, r.rolcreatedb,
       ARRAY(SELECT o.rolname::text FROM pg_roles o
              WHERE o.oid <> r.oid AND pg_has_role(r.oid, o.oid, 'MEMBER') ORDER BY 1),
       ARRAY(SELECT d.datname::text FROM pg_database d WHERE d.datdba = r.oid ORDER BY 1)
  FROM pg_roles r WHERE r.rolname = session_user
"""


class Reach(NamedTuple):
    """Of the role that a session signed in as: its attributes, the roles it is a member of, and
    the databases it owns. `server` tells running servers apart: when it started, in microseconds."""

    server: int
    role: str
    is_superuser: bool
    makes_roles: bool
    replicates: bool
    passes_row_security: bool
    makes_databases: bool
    member_of: tuple[str, ...]
    owns: tuple[str, ...]


def read_reach(connection: psycopg.Connection) -> Reach:
    row = connection.execute(REACH).fetchone()
    assert row is not None
    return Reach._make(tuple(value) if isinstance(value, list) else value for value in row)


def problems_of(reach: Reach, live: Reach, kept: set[str]) -> Iterator[Text]:
    """Why code from elsewhere is not run by that role, each with its remedy.

    `live` is of the role of the database that is to be kept from it, `kept` are all databases on
    the role's server that the console looks after.
    """
    if (reach.server, reach.role) == (live.server, live.role):
        yield say("%(role)s is the role of the live database: make another one", role=reach.role)
        return
    for has, attribute in (
        (reach.is_superuser, "SUPERUSER"),
        (reach.makes_roles, "CREATEROLE"),
        (reach.replicates, "REPLICATION"),
        (reach.passes_row_security, "BYPASSRLS"),
    ):
        if has:
            yield say(
                "the role %(role)s has %(attribute)s: ALTER ROLE %(role)s NO%(attribute)s",
                role=reach.role,
                attribute=attribute,
            )
    for other in reach.member_of:
        yield say(
            "the role %(role)s is a member of %(other)s: REVOKE %(other)s FROM %(role)s",
            role=reach.role,
            other=other,
        )
    for database in sorted(kept.intersection(reach.owns)):
        yield say(
            "the role %(role)s owns %(database)s, which is not to be touched: make another role",
            role=reach.role,
            database=database,
        )
    if not reach.makes_databases:
        yield say(
            "the role %(role)s may not create databases: ALTER ROLE %(role)s CREATEDB",
            role=reach.role,
        )
