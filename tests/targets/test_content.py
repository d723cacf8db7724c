"""What a database holds, hashed whatever the size of a value."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from opsconsole.targets import content
from opsconsole.targets.content import (
    BY_COLUMNS,
    IN_PIECES,
    differences,
    read_large_objects,
    read_tables,
)


@pytest.fixture
def session(database) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database(), autocommit=True) as connection:
        yield connection


def test_row_whose_text_is_longer_than_a_value_may_be_is_hashed_by_columns(session):
    session.execute("CREATE TABLE long (id int, note text, gone int, none text)")
    session.execute("ALTER TABLE long DROP COLUMN gone")
    # Each quote is doubled in the text of a row: 1.08 GB.
    session.execute("INSERT INTO long VALUES (1, repeat('\"', 540000000), NULL)")
    session.execute("CREATE TABLE short AS SELECT 1 AS id")
    with psycopg.connect(session.info.dsn, password=session.info.password) as snapshot:
        snapshot.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        before = read_tables(snapshot)
    assert before["public.long"]["hash"].startswith(BY_COLUMNS)
    assert before["public.short"]["hash"].lstrip("-").isdigit()
    session.execute("UPDATE public.long SET none = ''")
    assert differences(before, read_tables(session, like=before)) == [
        "public.long: 1 row with other content"
    ]


def test_table_is_hashed_as_it_was_in_the_reading_it_is_compared_with(session):
    session.execute("CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 9) n")
    plain = read_tables(session)
    by_columns = content._read_by_columns(session, psycopg.sql.Identifier("public", "t"))
    assert read_tables(session, like=plain) == plain
    assert read_tables(session, like={"public.t": by_columns}) == {"public.t": by_columns}


def test_large_objects_are_hashed_in_pieces_that_know_their_place(session, monkeypatch):
    session.execute("SELECT lo_from_bytea(1001, 'small')")
    small = read_large_objects(session)
    monkeypatch.setattr(content, "WHOLE_BYTES", 8)
    monkeypatch.setattr(content, "PIECE_BYTES", 4)
    assert read_large_objects(session) == small

    hashes = set()
    for data in ("aaaabbbb1", "bbbbaaaa1", "aaaabbbb12", "aaaabbbbaaaa"):
        session.execute("SELECT lo_from_bytea(1002, %s)", [data.encode()])
        found = read_large_objects(session)
        assert found["rows"] == 2
        assert found["hash"].startswith(IN_PIECES)
        hashes.add(found["hash"])
        session.execute("SELECT lo_unlink(1002)")
    assert len(hashes) == 4
    assert read_large_objects(session) == small
