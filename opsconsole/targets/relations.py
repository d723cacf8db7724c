"""What is in a target already, as far as it decides what a schema change will cost."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

import psycopg

QUERY = """
WITH spaces AS (
  SELECT oid, nspname FROM pg_namespace
   WHERE nspname NOT IN ('pg_catalog', 'information_schema') AND nspname NOT LIKE 'pg\\_%%'
), locked AS MATERIALIZED (
  SELECT DISTINCT relation FROM pg_locks, (SELECT set_config('lock_timeout', '1s', true)) patience
   WHERE mode = 'AccessExclusiveLock' AND relation IS NOT NULL
), found AS (
  SELECT c.oid, n.nspname || '.' || c.relname AS name, c.relkind, c.reltuples, c.relpages
    FROM pg_class c JOIN spaces n ON n.oid = c.relnamespace
   WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'i', 'I', 'S')
)
SELECT f.name, f.relkind::text,
       greatest(f.reltuples, 0)::bigint,
       -- Measuring takes a lock: what somebody holds is estimated, not waited for. One that is
       -- taken in between ends the wait soon, and the next try sees it.
       CASE WHEN f.relkind NOT IN ('r', 'm', 'i', 'S') THEN 0
            WHEN f.oid IN (SELECT relation FROM locked)
            THEN f.relpages::bigint * current_setting('block_size')::bigint
            ELSE pg_relation_size(f.oid) END,
       (SELECT t.name FROM pg_index x JOIN found t ON t.oid = x.indrelid WHERE x.indexrelid = f.oid),
       ARRAY(SELECT t.name FROM pg_constraint k JOIN found t ON t.oid = k.confrelid
              WHERE k.conrelid = f.oid AND k.contype = 'f'),
       ARRAY(SELECT t.name FROM pg_inherits h JOIN found t ON t.oid = h.inhrelid
              WHERE h.inhparent = f.oid),
       CASE WHEN f.relkind IN ('r', 'p', 'm') THEN
         (SELECT json_object_agg(a.attname,
                 json_build_array(format_type(a.atttypid, a.atttypmod), a.attnotnull))
            FROM pg_attribute a WHERE a.attrelid = f.oid AND a.attnum > 0 AND NOT a.attisdropped)
       END,
       CASE WHEN f.relkind IN ('r', 'p') THEN
         (SELECT json_object_agg(k.conname,
                 json_build_array(k.contype, pg_get_constraintdef(k.oid), k.convalidated, t.name))
            FROM pg_constraint k LEFT JOIN found t ON t.oid = k.confrelid
           WHERE k.conrelid = f.oid AND k.contype <> 'n')
       END,
       CASE WHEN f.relkind IN ('v', 'm') THEN
         (SELECT json_agg(DISTINCT t.name || '.' || coalesce(a.attname, ''))
            FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
            JOIN found t ON d.refclassid = 'pg_class'::regclass AND t.oid = d.refobjid
            LEFT JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
           WHERE r.ev_class = f.oid AND t.oid <> f.oid)
       END
  FROM found f
UNION ALL
SELECT p.proname, 'volatile', 0, 0, NULL, '{}', '{}', NULL, NULL, NULL
  FROM (SELECT DISTINCT proname FROM pg_proc WHERE provolatile = 'v' AND proname = ANY(%s)) p
"""
VOLATILE = "volatile"
TRIES = 3


@dataclass(frozen=True)
class Constraint:
    """`kind` is PostgreSQL's `contype`; `references` the table a foreign key points at."""

    kind: str
    definition: str
    is_valid: bool
    references: str | None


@dataclass(frozen=True)
class Relation:
    """One table, view, index or sequence. `rows` is the planner's estimate, `size_bytes`
    measured unless somebody holds the relation exclusively.

    `columns` maps a name to its type and whether it is NOT NULL; `of` is an index's table;
    `reads` are the columns, `schema.table.column`, that a view is made of.
    """

    name: str
    kind: str
    rows: int = 0
    size_bytes: int = 0
    of: str | None = None
    references: tuple[str, ...] = ()
    children: tuple[str, ...] = ()
    columns: dict[str, tuple[str, bool]] = field(default_factory=dict)
    constraints: dict[str, Constraint] = field(default_factory=dict)
    reads: frozenset[str] = frozenset()

    @property
    def tables_read(self) -> set[str]:
        return {column.rpartition(".")[0] for column in self.reads}


@dataclass(frozen=True)
class Catalogue:
    """The relations by `schema.name`, and which of the functions asked about are volatile."""

    relations: dict[str, Relation] = field(default_factory=dict)
    volatile: frozenset[str] = frozenset()
    version: int = 18

    def family(self, name: str) -> list[Relation]:
        """The table and everything that inherits from it; empty when it does not exist."""
        found = self.relations.get(name)
        if found is None:
            return []
        return [found, *(each for child in found.children for each in self.family(child))]

    def parents(self, name: str) -> list[str]:
        return [r.name for r in self.relations.values() if name in r.children]

    def referencing(self, name: str) -> list[tuple[str, str]]:
        """`(table, constraint)` of every foreign key that points at the table."""
        return [
            (relation.name, constraint)
            for relation in self.relations.values()
            for constraint, found in relation.constraints.items()
            if found.references == name
        ]

    def views_on(self, name: str, column: str = "") -> list[Relation]:
        """Views that read the relation, or that column of it, directly or through others."""
        found = [
            relation
            for relation in self.relations.values()
            if (f"{name}.{column}" in relation.reads if column else name in relation.tables_read)
        ]
        return found + [view for each in found for view in self.views_on(each.name)]


def read_catalogue(connection: psycopg.Connection, functions: set[str]) -> Catalogue:
    """Read the user's relations, and which of the named functions are volatile, in one query."""
    rows = _read_without_waiting(connection, functions)
    return Catalogue(
        {row[0]: _relation(row) for row in rows if row[1] != VOLATILE},
        frozenset(row[0] for row in rows if row[1] == VOLATILE),
        connection.info.server_version // 10000,
    )


def _read_without_waiting(connection: psycopg.Connection, functions: set[str]) -> list[tuple]:
    for _try in range(TRIES - 1):
        with suppress(psycopg.errors.LockNotAvailable):
            return connection.execute(QUERY, [sorted(functions)]).fetchall()
    return connection.execute(QUERY, [sorted(functions)]).fetchall()


def _relation(row: tuple) -> Relation:
    name, kind, rows, size, of, references, children, columns, constraints, reads = row
    return Relation(
        name,
        kind,
        rows,
        size,
        of,
        tuple(references),
        tuple(children),
        {
            column: (text, bool(is_required))
            for column, (text, is_required) in (columns or {}).items()
        },
        {key: Constraint(*values) for key, values in (constraints or {}).items()},
        frozenset(reads or ()),
    )
