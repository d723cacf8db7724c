"""Who owns what in a database, as far as a restore gives it back to its owner."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import psycopg

# Everything for which pg_dump writes an owner, but not what an extension made, nor the functions
# of event triggers, which a restore leaves out with them. Row types, arrays and indexes follow their
# tables; what initdb made is not dumped, and bears lower numbers.
OWNED = """
WITH owned (class, object, owner, namespace) AS (
  SELECT 'pg_class'::regclass, oid, relowner, relnamespace FROM pg_class
   WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
  UNION ALL SELECT 'pg_proc'::regclass, oid, proowner, pronamespace FROM pg_proc
   WHERE oid NOT IN (SELECT evtfoid FROM pg_event_trigger)
  UNION ALL SELECT 'pg_type'::regclass, oid, typowner, typnamespace FROM pg_type
   WHERE typtype IN ('d', 'e', 'r') OR typtype = 'c' AND typrelid IN
         (SELECT oid FROM pg_class WHERE relkind = 'c')
  UNION ALL SELECT 'pg_operator'::regclass, oid, oprowner, oprnamespace FROM pg_operator
  UNION ALL SELECT 'pg_opclass'::regclass, oid, opcowner, opcnamespace FROM pg_opclass
  UNION ALL SELECT 'pg_opfamily'::regclass, oid, opfowner, opfnamespace FROM pg_opfamily
  UNION ALL SELECT 'pg_collation'::regclass, oid, collowner, collnamespace FROM pg_collation
  UNION ALL SELECT 'pg_conversion'::regclass, oid, conowner, connamespace FROM pg_conversion
  UNION ALL SELECT 'pg_ts_dict'::regclass, oid, dictowner, dictnamespace FROM pg_ts_dict
  UNION ALL SELECT 'pg_ts_config'::regclass, oid, cfgowner, cfgnamespace FROM pg_ts_config
  UNION ALL SELECT 'pg_statistic_ext'::regclass, oid, stxowner, stxnamespace FROM pg_statistic_ext
  UNION ALL SELECT 'pg_language'::regclass, oid, lanowner, 0 FROM pg_language
  UNION ALL SELECT 'pg_foreign_data_wrapper'::regclass, oid, fdwowner, 0 FROM pg_foreign_data_wrapper
  UNION ALL SELECT 'pg_foreign_server'::regclass, oid, srvowner, 0 FROM pg_foreign_server
  UNION ALL SELECT 'pg_largeobject'::regclass, oid, lomowner, 0 FROM pg_largeobject_metadata
  UNION ALL SELECT 'pg_namespace'::regclass, oid, nspowner, 0 FROM pg_namespace
   WHERE nspname NOT LIKE 'pg\\_%%' AND nspname <> ALL(%(skipped)s)
), mine AS (
  SELECT o.* FROM owned o
   WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = o.class AND d.objid = o.object
                        AND d.deptype IN ('e', 'i'))
     AND (o.object >= 16384 OR o.class = 'pg_largeobject'::regclass
          OR o.class = 'pg_namespace'::regclass
             AND pg_get_userbyid(o.owner) <> 'pg_database_owner'
             AND NOT (o.owner = 10 AND %(version)s < 150000))
)
SELECT (SELECT coalesce(jsonb_agg(DISTINCT jsonb_build_array(
                 coalesce(n.nspname, ''), pg_get_userbyid(m.owner))), '[]')
          FROM mine m LEFT JOIN pg_namespace n ON n.oid = m.namespace
         WHERE m.class <> 'pg_namespace'::regclass AND coalesce(n.nspname, '') NOT LIKE 'pg\\_%%'
           AND coalesce(n.nspname, '') <> ALL(%(skipped)s)),
       (SELECT coalesce(jsonb_object_agg(n.nspname, pg_get_userbyid(m.owner)), '{}')
          FROM mine m JOIN pg_namespace n ON n.oid = m.object AND m.class = 'pg_namespace'::regclass)
"""
# Since PostgreSQL 16 a member may have been given the role without the right to act as it.
FIRST_WITH_SET_OPTION = 160000


class Ownership(NamedTuple):
    """`objects` is `[[schema, owner], ...]`, once each, with "" for what lies in no schema;
    `schemas` is `{schema: owner}`."""

    objects: list[list[str]]
    schemas: dict[str, str]

    @property
    def roles(self) -> list[str]:
        """That own anything but schemas, sorted."""
        return sorted({owner for _schema, owner in self.objects})

    def schemas_of(self, roles: Collection[str]) -> dict[str, str]:
        return {schema: owner for schema, owner in self.schemas.items() if owner in roles}


def read_ownership(connection: psycopg.Connection, skipped: Collection[str] = ()) -> Ownership:
    """Of the connected database, without the `skipped` schemas."""
    row = connection.execute(
        OWNED,
        {
            "skipped": ["information_schema", *skipped],
            "version": connection.info.server_version,
        },
    ).fetchone()
    assert row is not None
    return Ownership(*row)


def out_of_reach(connection: psycopg.Connection, roles: Collection[str]) -> list[str]:
    """Those to whom the session's role can give nothing: it is no member, or there is none."""
    right = "SET" if connection.info.server_version >= FIRST_WITH_SET_OPTION else "MEMBER"
    rows = connection.execute(
        "SELECT rolname FROM pg_roles WHERE rolname = ANY(%s) AND pg_has_role(oid, %s)",
        [list(roles), right],
    )
    return sorted(set(roles) - {row[0] for row in rows})


def hidden_by_row_security(connection: psycopg.Connection) -> list[str]:
    """Tables of which row security may hide rows from the session's role, `schema.table`."""
    rows = connection.execute(
        "SELECT format('%s.%s', n.nspname, c.relname) FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relrowsecurity AND row_security_active(c.oid)"
        " AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass"
        " AND d.objid = c.oid AND d.deptype = 'e') ORDER BY 1"
    )
    return [row[0] for row in rows]
