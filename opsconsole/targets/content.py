"""What a database holds, as numbers that can be compared: rows and hashes per table, sequences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

import psycopg
from psycopg import sql

from opsconsole.formats import count, counted


class TableContent(TypedDict):
    """Rows, and their order-free hash: the sum of a 64-bit hash of each row's text, in decimal.

    `columns:` before it says that the text of a row was too long for one value, and each row was
    hashed column by column; `pieces:` that a large object was hashed in pieces.
    """

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


NOTHING: TableContent = {"rows": 0, "hash": ""}
BY_COLUMNS, IN_PIECES = "columns:", "pieces:"
# Larger ones are hashed in pieces. The text of one has twice its bytes, and may have 1 GB.
PIECE_BYTES = 64 * 1024 * 1024
WHOLE_BYTES = 256 * 1024 * 1024
# How PostgreSQL says that a value would be longer than one may be, or than its memory.
TOO_LONG = (
    psycopg.errors.ProgramLimitExceeded,
    psycopg.errors.InternalError_,
    psycopg.errors.OutOfMemory,
)
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
    connection: psycopg.Connection, like: Mapping[str, TableContent] | None = None
) -> dict[str, TableContent]:
    """`{schema.table: {rows, hash}}` in the connection's own snapshot.

    `like` is what another reading found: each table is hashed as it was there.
    """
    fix_settings(connection)
    tables: dict[str, TableContent] = {}
    for schema, name in list_relations(connection, "r"):
        table, shown = sql.Identifier(schema, name), f"{schema}.{name}"
        if like and like.get(shown, NOTHING)["hash"].startswith(BY_COLUMNS):
            tables[shown] = _read_by_columns(connection, table)
            continue
        try:
            with connection.transaction():
                tables[shown] = _read_table(connection, table, sql.SQL("t::text"))
        except TOO_LONG:
            tables[shown] = _read_by_columns(connection, table)
    return tables


def _read_table(
    connection: psycopg.Connection, table: sql.Identifier, text: sql.Composable
) -> TableContent:
    row = connection.execute(
        sql.SQL(
            "SELECT count(*), coalesce(sum(hashtextextended({}, 0)::numeric), 0) FROM ONLY {} t"
        ).format(text, table)
    ).fetchone()
    assert row is not None
    return {"rows": row[0], "hash": str(row[1])}


def _read_by_columns(connection: psycopg.Connection, table: sql.Identifier) -> TableContent:
    """A row's text is here that of its columns' hashes: each column may have 1 GB."""
    columns = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0"
        " AND NOT attisdropped ORDER BY attnum",
        [table.as_string(connection)],
    )
    hashes = [
        sql.SQL("hashtextextended(t.{}::text, 0)").format(sql.Identifier(row[0])) for row in columns
    ]
    text = sql.SQL("ARRAY[{}]::bigint[]::text").format(sql.SQL(", ").join(hashes))
    found = _read_table(connection, table, text)
    return {"rows": found["rows"], "hash": BY_COLUMNS + found["hash"]}


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
    """Count and hash of the large objects; each may have up to 4 TB, and is read in pieces.

    Those that fit into one value are hashed as one, as all were before there were pieces.
    """
    row = connection.execute(
        "SELECT count(*), coalesce(sum(hashtextextended(encode(lo_get(oid), 'hex'), 0)::numeric)"
        " FILTER (WHERE length(lo_get(oid, %(end)s, 1)) = 0), 0),"
        " array_agg(oid) FILTER (WHERE length(lo_get(oid, %(end)s, 1)) > 0)"
        " FROM pg_largeobject_metadata",
        {"end": WHOLE_BYTES},
    ).fetchone()
    assert row is not None
    rows, total, large = row
    if not large:
        return {"rows": rows, "hash": str(total)}
    total += sum(_hash_in_pieces(connection, number) for number in large)
    return {"rows": rows, "hash": f"{IN_PIECES}{total}"}


def _hash_in_pieces(connection: psycopg.Connection, number: int) -> int:
    """The sum of its pieces' hashes, each with its place as the seed."""
    total, place = 0, 0
    while True:
        row = connection.execute(
            "SELECT hashtextextended(encode(piece, 'hex'), %(place)s), length(piece)"
            " FROM lo_get(%(number)s::oid, %(start)s, %(bytes)s) piece",
            {
                "place": place,
                "number": number,
                "start": place * PIECE_BYTES,
                "bytes": PIECE_BYTES,
            },
        ).fetchone()
        assert row is not None
        total += int(row[0])
        place += 1
        if row[1] < PIECE_BYTES:
            return total


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
