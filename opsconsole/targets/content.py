"""What a database holds, as numbers that can be compared: rows and hashes per table, sequences."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

import psycopg
from psycopg import sql

from opsconsole.formats import count, counted


class TableContent(TypedDict):
    """Rows, and their order-free hash: the sum of a 64-bit hash of each row's text, in decimal."""

    rows: int
    hash: str


class DatabaseContent(TypedDict):
    """What a database held in one snapshot: `{schema.table: ...}`, `{schema.sequence: last value}`.

    Sequences are bound to no snapshot: they are what they were just before and just after it.
    """

    tables: dict[str, TableContent]
    large_objects: TableContent
    sequences_before: dict[str, int]
    sequences_after: dict[str, int]


# Text forms must not depend on a role's or a database's own settings.
FIXED_SETTINGS = {
    "DateStyle": "ISO, YMD", "IntervalStyle": "postgres", "TimeZone": "UTC",
    "extra_float_digits": "1", "bytea_output": "hex", "search_path": "pg_catalog",
    "lc_monetary": "C", "row_security": "off", "quote_all_identifiers": "off",
}  # fmt: skip
USER_RELATIONS = """
    SELECT n.nspname, c.relname
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind = ANY(%s) AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'opsconsole_log')
       AND n.nspname NOT LIKE 'pg\\_toast%%' AND n.nspname NOT LIKE 'pg\\_temp%%'
       AND c.relpersistence = 'p'
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.objid = c.oid
                        AND d.classid = 'pg_class'::regclass AND d.deptype = 'e')
     ORDER BY 1, 2
"""


def fix_settings(connection: psycopg.Connection) -> None:
    for name, value in FIXED_SETTINGS.items():
        connection.execute("SELECT set_config(%s, %s, false)", [name, value])


def list_relations(connection: psycopg.Connection, kinds: str) -> list[tuple[str, str]]:
    """(schema, name) of the users' permanent relations of these kinds (pg_class.relkind)."""
    return [(row[0], row[1]) for row in connection.execute(USER_RELATIONS, [list(kinds)])]


def read_tables(
    connection: psycopg.Connection, on_progress: Callable[[int, int], None] | None = None
) -> dict[str, TableContent]:
    """`{schema.table: {rows, hash}}` in the connection's own snapshot.

    `on_progress(done, total)` is told in tables.
    """
    fix_settings(connection)
    relations = list_relations(connection, "r")
    tables: dict[str, TableContent] = {}
    for index, (schema, name) in enumerate(relations):
        row = connection.execute(
            sql.SQL(
                "SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)"
                " FROM ONLY {} t"
            ).format(sql.Identifier(schema, name))
        ).fetchone()
        assert row is not None
        tables[f"{schema}.{name}"] = {"rows": row[0], "hash": str(row[1])}
        if on_progress:
            on_progress(index + 1, len(relations))
    return tables


def count_rows(connection: psycopg.Connection) -> dict[str, int]:
    """`{schema.table: rows}` in the connection's own snapshot."""
    counts = {}
    for schema, name in list_relations(connection, "r"):
        row = connection.execute(
            sql.SQL("SELECT count(*) FROM ONLY {}").format(sql.Identifier(schema, name))
        ).fetchone()
        assert row is not None
        counts[f"{schema}.{name}"] = int(row[0])
    return counts


def read_sequences(connection: psycopg.Connection) -> dict[str, int]:
    """`{schema.sequence: last value}`; one never used counts as one before its start."""
    values = {}
    for schema, name in list_relations(connection, "S"):
        row = connection.execute(
            sql.SQL(
                "SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM {}"
            ).format(sql.Identifier(schema, name))
        ).fetchone()
        assert row is not None
        values[f"{schema}.{name}"] = row[0]
    return values


def read_large_objects(connection: psycopg.Connection) -> TableContent:
    """Count and hash of the large objects this role may read."""
    row = connection.execute(
        "SELECT count(*), coalesce(sum(hashtextextended(encode(lo_get(oid), 'hex'), 0)::numeric), 0)"
        " FROM pg_largeobject_metadata"
    ).fetchone()
    assert row is not None
    return {"rows": row[0], "hash": str(row[1])}


def differences(expected: dict[str, TableContent], found: dict[str, TableContent]) -> list[str]:
    """One line per table that differs in presence, rows or hash."""
    lines = []
    for name in sorted(expected.keys() | found.keys()):
        before, after = expected.get(name), found.get(name)
        if before is None or after is None:
            lines.append(f"{name}: {'missing' if after is None else 'unexpected'}")
        elif before["rows"] != after["rows"]:
            lines.append(
                f"{name}: {counted(before['rows'], 'row')} expected, {count(after['rows'])} found"
            )
        elif before["hash"] != after["hash"]:
            lines.append(f"{name}: {counted(before['rows'], 'row')} with other content")
    return lines


def sequence_differences(
    before: dict[str, int], after: dict[str, int], found: dict[str, int]
) -> list[str]:
    """Sequences outside what they were just before and just after the dump.

    Sequences are not bound to a snapshot: under live writes they move while the dump runs.
    """
    lines = []
    for name in sorted(before.keys() | found.keys()):
        if name not in found:
            lines.append(f"sequence {name}: missing")
        elif name in before:
            low, high = sorted((before[name], after.get(name, before[name])))
            if not low <= found[name] <= high:
                lines.append(f"sequence {name}: {found[name]}, expected {low} to {high}")
    return lines
