"""The catalogue is read without waiting for whoever holds a table."""

from __future__ import annotations

import threading

import psycopg

from opsconsole.targets import relations
from opsconsole.targets.relations import read_catalogue


def test_table_that_is_taken_while_the_catalogue_is_read_costs_one_more_try(database, monkeypatch):
    dsn = database()
    # As if the lock had been taken after those that are held were read.
    blind = relations.QUERY.replace("'AccessExclusiveLock'", "'none'")
    monkeypatch.setattr(relations, "QUERY", blind)
    with (
        psycopg.connect(dsn) as holder,
        psycopg.connect(dsn, autocommit=True) as connection,
    ):
        connection.execute("CREATE TABLE held (n int)")
        holder.execute("LOCK TABLE held IN ACCESS EXCLUSIVE MODE")
        released = threading.Timer(1.3, holder.rollback)
        released.start()
        assert set(read_catalogue(connection, set()).relations) == {"public.held"}
        assert connection.execute("SHOW lock_timeout").fetchone() == ("0",)
        released.join()
