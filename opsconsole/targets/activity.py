"""Who is at work in a target: blockers, and rows written."""

from __future__ import annotations

import psycopg

from opsconsole.formats import count, duration

# pg_stat_xact_user_tables without its join to the indexes, which takes longer the more there are.
WRITES_HERE = """
    SELECT coalesce(sum(pg_stat_get_xact_tuples_inserted(c.oid)
                        + pg_stat_get_xact_tuples_updated(c.oid)
                        + pg_stat_get_xact_tuples_deleted(c.oid)), 0)::bigint
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'm', 'p') AND c.relname <> '_prisma_migrations'
       AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'opsconsole_log')
"""


def rows_written(connection: psycopg.Connection) -> int:
    """Rows inserted, updated and deleted since statistics began, by anybody.

    Counts rows of transactions that were rolled back too: an upper bound.
    """
    row = connection.execute(
        "SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::bigint FROM pg_stat_user_tables"
        " WHERE relname <> '_prisma_migrations' AND schemaname <> 'opsconsole_log'"
    ).fetchone()
    assert row is not None
    return int(row[0])


def rows_written_by_table(connection: psycopg.Connection) -> dict[str, int]:
    """`{schema.table: rows}`: the same, table by table; only tables that were written to."""
    return dict(
        connection.execute(
            "SELECT schemaname || '.' || relname, n_tup_ins + n_tup_upd + n_tup_del"
            " FROM pg_stat_user_tables WHERE n_tup_ins + n_tup_upd + n_tup_del > 0"
            "  AND schemaname <> 'opsconsole_log'"
        ).fetchall()
    )


def rows_written_here(connection: psycopg.Connection) -> int:
    """Rows that the open transaction of this session has written so far.

    The server adds those of earlier transactions of the session that it has not yet made known,
    which it does once a second: see `rows_not_yet_known`.
    """
    row = connection.execute(WRITES_HERE).fetchone()
    assert row is not None
    return int(row[0])


def rows_not_yet_known(connection: psycopg.Connection) -> int:
    """What `rows_written_here` will say of earlier transactions. Outside of a transaction only."""
    if connection.info.server_version < 150000:
        return rows_written_here(connection)
    connection.execute("SELECT pg_stat_force_next_flush()")
    return 0


def tables_copied(connection: psycopg.Connection, application_name: str) -> list[str]:
    """Tables that sessions of that name copy now, each with its row so far and about how many.

    Source: PostgreSQL's documentation of pg_stat_progress_copy (14 and later).
    """
    rows = connection.execute(
        """
        SELECT n.nspname || '.' || c.relname, p.tuples_processed, c.reltuples::bigint
          FROM pg_stat_progress_copy p JOIN pg_stat_activity a USING (pid)
          JOIN pg_class c ON c.oid = p.relid JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE p.datname = current_database() AND a.application_name = %s
         ORDER BY 1
        """,
        [application_name],
    ).fetchall()
    return [
        f"{name}, row {count(done)}" + (f" of about {count(total)}" if total >= done else "")
        for name, done, total in rows
    ]


def waiting_behind(connection: psycopg.Connection, names: list[str]) -> tuple[int, float]:
    """How many sessions wait for a lock behind those of such a name, and the longest in seconds.

    Also those behind their place in a queue (PostgreSQL's documentation of pg_blocking_pids).
    The console's own sessions do not count, nor do those that wait for an advisory lock.
    """
    since = "l.waitstart" if connection.info.server_version >= 140000 else "NULL::timestamptz"
    row = connection.execute(
        f"""
        SELECT count(*),
               coalesce(max(extract(epoch FROM clock_timestamp() - coalesce(
                   {since}, a.query_start, clock_timestamp()))), 0)::float
          FROM pg_locks l JOIN pg_stat_activity a USING (pid)
         WHERE NOT l.granted AND l.locktype <> 'advisory'
           AND a.application_name NOT LIKE 'opsconsole:%%'
           AND pg_blocking_pids(l.pid) && ARRAY(
               SELECT pid FROM pg_stat_activity WHERE application_name = ANY(%s)
                  AND datname = current_database())
        """,  # noqa: S608
        [names],
    ).fetchone()
    assert row is not None
    return int(row[0]), float(row[1])


def cancel_statements(connection: psycopg.Connection, names: list[str]) -> None:
    """Cancel what sessions of such a name run in this database."""
    connection.execute(
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = ANY(%s)"
        " AND datname = current_database()",
        [names],
    )


def index_progress(connection: psycopg.Connection, names: list[str]) -> tuple[str, float] | None:
    """The phase and per cent of the index that a session of such a name builds; None without one.

    Source: PostgreSQL's documentation of pg_stat_progress_create_index.
    """
    row = connection.execute(
        """
        SELECT p.phase, p.relid::regclass::text,
               CASE WHEN p.tuples_total > 0 THEN 100.0 * p.tuples_done / p.tuples_total
                    WHEN p.blocks_total > 0 THEN 100.0 * p.blocks_done / p.blocks_total
                    ELSE 0 END::float
          FROM pg_stat_progress_create_index p JOIN pg_stat_activity a USING (pid)
         WHERE a.application_name = ANY(%s) AND p.datname = current_database()
        """,
        [names],
    ).fetchone()
    return (f"index on {row[1]}: {row[0]}", row[2]) if row else None


def running_statement(connection: psycopg.Connection, names: list[str]) -> tuple[str, float] | None:
    """What a session of such a name runs now, and for how many seconds; None for nothing.

    The server keeps the first `track_activity_query_size` bytes of it.
    """
    row = connection.execute(
        """
        SELECT query, extract(epoch FROM clock_timestamp() - query_start)::float
          FROM pg_stat_activity
         WHERE application_name = ANY(%s) AND datname = current_database() AND state = 'active'
         ORDER BY query_start LIMIT 1
        """,
        [names],
    ).fetchone()
    return (row[0], row[1]) if row else None


def blockers(connection: psycopg.Connection, database: str, long_seconds: float = 60) -> list[str]:
    """What would make a schema change wait, one line each: dumps, long and idle transactions."""
    rows = connection.execute(
        """
        SELECT pid, application_name, state, extract(epoch FROM now() - xact_start)::int
          FROM pg_stat_activity
         WHERE datname = %s AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
           AND backend_type = 'client backend'
           AND (application_name = 'pg_dump' OR application_name LIKE '%%:backup:dump'
                OR now() - xact_start > make_interval(secs => %s))
         ORDER BY xact_start
        """,
        [database, long_seconds],
    ).fetchall()
    return [
        f"session {pid} ({name or 'unnamed'}, {state}) has a transaction open for {duration(seconds)}"
        for pid, name, state, seconds in rows
    ]
