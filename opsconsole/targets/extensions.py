"""Extensions with tables and jobs of their own, restored as their documentation says.

What an extension made is its own and no row of the application: pg_dump and the comparison of
content leave it out, PostGIS's `spatial_ref_sys` too. Two need more than that.
"""

from __future__ import annotations

from collections.abc import Collection

import psycopg

# Its catalogues refer to each other, and its jobs would change what was restored (TimescaleDB:
# "Logical backup with pg_dump and pg_restore"). Restoring them with several jobs is not supported.
TIMESCALEDB = "timescaledb"
# It can be in one database of a server only, which is named in the server's settings (pg_cron:
# `cron.database_name`), so never in one that has another name yet.
PG_CRON = "pg_cron"
PG_CRON_ENTRIES = (
    "EXTENSION - pg_cron ", "COMMENT - EXTENSION pg_cron ", "TABLE DATA cron ",
    "SEQUENCE SET cron ", "ACL - SCHEMA cron ", "ACL cron ",
)  # fmt: skip


def left_out(extensions: Collection[str]) -> tuple[str, ...]:
    """How `pg_restore --list` begins the entries of those that cannot be made beside a database."""
    return PG_CRON_ENTRIES if PG_CRON in extensions else ()


def takes_one_job(extensions: Collection[str]) -> bool:
    """Whether one of them is restored by one session only."""
    return TIMESCALEDB in extensions


def begin_restore(connection: psycopg.Connection, extensions: Collection[str]) -> None:
    """Prepare the connected, empty database; its jobs rest from now on."""
    if TIMESCALEDB in extensions:
        connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
        connection.execute("SELECT timescaledb_pre_restore()")


def end_restore(connection: psycopg.Connection, extensions: Collection[str]) -> None:
    """Let the connected database, which was restored and compared, go to work."""
    if TIMESCALEDB in extensions:
        connection.execute("SELECT timescaledb_post_restore()")
