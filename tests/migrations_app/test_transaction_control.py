"""Scripts with transaction control of their own do what they do when they are sent whole.

That is what Prisma (before 7.4) and dbmate (`transaction:false`) do: one simple query. Scripts
made of pieces are applied both ways; longer by hand, with another seed each time:
`OPSCONSOLE_TEST_SCRIPTS=2000 pytest tests/migrations_app/test_transaction_control.py -s`.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from migrations_app.engines import Limits
from migrations_app.engines.kinds import ScriptFailed
from migrations_app.engines.prisma import PrismaEngine

COUNT = int(os.environ.get("OPSCONSOLE_TEST_SCRIPTS", "0"))
SEED = random.SystemRandom().randrange(10**6) if COUNT else 1
PIECES = [
    *["INSERT INTO t SELECT count(*), current_setting('transaction_isolation') FROM t"] * 6,
    *["BEGIN", "COMMIT"] * 4,
    *["ROLLBACK", "END", "ABORT WORK", "START TRANSACTION"] * 2,
    "begin /* of it */ work isolation level serializable",
    "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, NOT DEFERRABLE",
    "START TRANSACTION READ ONLY",
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "SET TRANSACTION READ ONLY",
    "SET LOCAL transaction_isolation = 'serializable'",
    "SAVEPOINT s",
    "ROLLBACK TO s",
    "RELEASE SAVEPOINT s",
    "SET CONSTRAINTS ALL DEFERRED",
    "INSERT INTO late VALUES (1)",
    "SELECT 1 / 0",
    "CRATE TABLE u ()",
    "CREATE TABLE u ()",
    "LOCK TABLE t",
    "DO $$ BEGIN INSERT INTO t VALUES (-1, 'do'); END $$",
    "DO $$ BEGIN INSERT INTO t VALUES (-2, 'do'); COMMIT; END $$",
    "CALL commits()",
    "COMMIT AND CHAIN",
]
SETTING = """
DROP TABLE IF EXISTS t, u, late;
CREATE TABLE t (n int, isolation text);
CREATE TABLE late (n int REFERENCES once (n) DEFERRABLE INITIALLY DEFERRED);
"""
# What the console refuses, and the server does not.
REFUSED_ON_PURPOSE = ("AND CHAIN", "does not end")


@pytest.fixture
def engine(tmp_path: Path) -> PrismaEngine:
    return PrismaEngine(tmp_path)


@pytest.fixture
def connection(database, engine: PrismaEngine) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database(), autocommit=True) as session:
        engine.ensure_history(session)
        session.execute("CREATE TABLE once (n int PRIMARY KEY)")
        session.execute(
            "CREATE PROCEDURE commits() LANGUAGE plpgsql AS"
            " $$ BEGIN INSERT INTO t VALUES (-3, 'call'); COMMIT; END $$"
        )
        yield session


def look(connection: psycopg.Connection) -> tuple[object, ...]:
    rows = connection.execute("SELECT n, isolation FROM t ORDER BY ctid").fetchall()
    return rows, connection.execute("SELECT to_regclass('u')::text").fetchone()


def sent_whole(connection: psycopg.Connection, text: str) -> tuple[str, object]:
    """The SQLSTATE that ended it ("" for none), and what it left."""
    connection.execute(SETTING)
    result = connection.pgconn.exec_(text.encode())
    state = (result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) or b"").decode()
    if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
        connection.execute("ROLLBACK")
    connection.execute("RESET ALL")
    return state, look(connection)


def applied(
    engine: PrismaEngine, connection: psycopg.Connection, text: str
) -> tuple[str, object] | str:
    """The same by the engine; or, as text, why it is refused."""
    connection.execute(SETTING)
    connection.execute("DELETE FROM _prisma_migrations")
    script = engine.script_of("1_a", text)
    if script.refusal:
        return script.refusal
    state = ""
    try:
        engine.apply(connection, script, Limits(), lambda *_: None, lambda _: None)
    except ScriptFailed as failure:
        state = failure.reason.split()[0]
    finished = connection.execute("SELECT finished_at IS NOT NULL FROM _prisma_migrations")
    assert finished.fetchall() == [(not state,)]
    connection.execute("RESET ALL")
    return state, look(connection)


def script_of_pieces(dice: random.Random) -> str:
    pieces = dice.choices(PIECES, k=dice.randint(1, 9))
    # Most scripts that are left open are the same to us: refused.
    return ";\n".join([*pieces, *["COMMIT"] * dice.randint(0, 1)]) + ";\n"


def test_script_of_any_pieces_does_what_it_does_when_it_is_sent_whole(
    engine: PrismaEngine, connection: psycopg.Connection
) -> None:
    dice = random.Random(SEED)
    refused = 0
    for _number in range(COUNT or 150):
        text = script_of_pieces(dice)
        found, expected = applied(engine, connection, text), sent_whole(connection, text)
        if isinstance(found, str):
            refused += 1
            is_on_purpose = any(words in found for words in REFUSED_ON_PURPOSE)
            assert is_on_purpose or expected[0], (text, found, expected)
        else:
            assert found == expected, (text, SEED)
    print(f"\nseed {SEED}: {COUNT or 150} scripts, {refused} refused")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("BEGIN;\nPREPARE TRANSACTION 'p';", "line 2 prepares a transaction, which outlives"),
        ("COMMIT PREPARED 'p';", "line 1 prepares a transaction, which outlives the file"),
        ("BEGIN;\nCOMMIT AND CHAIN;\nCOMMIT;", "line 2: the console does not follow AND CHAIN"),
        ("SELECT 1;\nSAVEPOINT s;", "line 2 needs a transaction, and the file begins none"),
        ("BEGIN;\nCOMMIT;\nRELEASE s;", "line 3 needs a transaction, and the file begins none"),
        ("-- alone\nLOCK TABLE t;", "line 2 needs a transaction: write BEGIN before it"),
        ("BEGIN; SAVEPOINT s; ROLLBACK TO s; COMMIT;", ""),
        ("BEGIN/* c */ISOLATION LEVEL SERIALIZABLE; COMMIT/**/;", ""),
        ("SELECT 'SAVEPOINT s';", ""),
    ],
)
def test_control_that_is_not_followed_is_refused_with_line_and_remedy(tmp_path, text, said):
    refusal = PrismaEngine.script_of("1_a", text).refusal
    assert refusal.startswith(said)
    assert bool(refusal) is bool(said)
