"""Generated migrations, applied by the console and by the tool itself: the same, or refused.

Whatever a file means to its tool it means here: the same schema, rows, history and status; or a
refusal that names the construct before anything runs; or a difference that docs/engines.md lists.
A sample runs always; longer by hand, with another seed each time:
`OPSCONSOLE_TEST_FILES=2000 pytest tests/migrations_app/test_differential.py -s` (2,000 files of
dbmate, 40 histories of 50 files and 60 single files of Prisma).
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest

from migrations_app.engines.dbmate import DbmateEngine
from migrations_app.engines.kinds import Engine, Limits, ScriptFailed
from migrations_app.engines.prisma import PrismaEngine
from opsconsole.exceptions import AdapterError
from tests.migrations_app.test_dbmate_files import run_dbmate
from tests.migrations_app.test_prisma_cli import project, run_prisma  # noqa: F401

COUNT = int(os.environ.get("OPSCONSOLE_TEST_FILES", "0"))
SEED = int(os.environ.get("OPSCONSOLE_TEST_SEED", "0")) or (
    random.SystemRandom().randrange(10**6) if COUNT else 7
)
NAME = "20250101000000_a"
pytestmark = pytest.mark.timeout(3600 if COUNT else 600)

# Refused although the tool applies it: see "Deliberate differences" in docs/engines.md.
ON_PURPOSE = re.compile(
    r"ends the transaction that the tool began|begins a second `-- migrate:up`|AND CHAIN"
    r"|prepares a transaction|does not end|needs a transaction|begins a transaction that"
    r"|changes how the rest is read|sends rows to its client|is not UTF-8|holds a NUL byte"
    r"|begins the transaction that|transaction, where|is already in one"
)
# Rejected by dbmate, because it sends a section whole, and applied by the console.
ALONE = re.compile(
    r"cannot run inside a transaction block|cannot be executed from a function|25001"
)

# Left so, the session takes no row of the tool's history.
READ_ONLY = b"SET default_transaction_read_only = on"

STATEMENTS = [
    *["CREATE TABLE {new} (id int PRIMARY KEY, note text DEFAULT 'x;y')"] * 6,
    *["INSERT INTO log (note) VALUES ('{new}')"] * 4,
    "INSERT INTO log (note) VALUES ('it''s; fine'), (E'back\\\\slash\\'; quote')",
    "INSERT INTO log (note) VALUES ($$dollar; 'quote' -- no comment$$)",
    "INSERT INTO log (note) SELECT $a$one $b$ two $b$; three$a$",
    "INSERT INTO log (note) VALUES ('ünïcode ☃ \U0001f600')",
    "INSERT INTO log (note) SELECT current_setting('TimeZone') || current_setting('DateStyle')",
    "/* a; /* nested; */ comment */ INSERT INTO log (note) VALUES ('after /* it */')",
    "-- only ; a comment\nINSERT INTO log (note) VALUES ('-- not one')",
    "CREATE FUNCTION {new}() RETURNS int LANGUAGE plpgsql AS $f$ BEGIN RETURN 1; END; $f$",
    "CREATE FUNCTION {new}() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT 2; END",
    "CREATE VIEW {new} AS SELECT 1 AS one",
    "DO $$ BEGIN INSERT INTO log (note) VALUES ('do'); END $$",
    "COMMENT ON TABLE log IS 'of {new}; really'",
    "ALTER TABLE log ADD COLUMN IF NOT EXISTS {new} int DEFAULT 7",
    "CREATE INDEX {new} ON log (note)",
    "CREATE TYPE {new} AS ENUM ('a', 'b;c')",
    "ALTER TYPE mood ADD VALUE IF NOT EXISTS '{new}'",
    "CREATE RULE {new} AS ON DELETE TO log DO ALSO (SELECT 1; SELECT 2)",
    'CREATE TABLE "{new} odd; name" ("a;b" int)',
    "SELECT 1",
    "SET TIME ZONE 'Asia/Tokyo'",
    "SET LOCAL TIME ZONE 'UTC'",
    "CREATE TEMP TABLE {new} (id int)",
    "",
]
TROUBLE = [
    "BEGIN", "COMMIT", "ROLLBACK", "START TRANSACTION READ WRITE", "SAVEPOINT s", "END",
    "ROLLBACK TO SAVEPOINT s", "COMMIT AND CHAIN", "PREPARE TRANSACTION 'p'", "SET CONSTRAINTS ALL DEFERRED",
    "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "VACUUM log", "SELECT 1 / 0",
    "CREATE INDEX CONCURRENTLY {new} ON log (note)", "CRATE TABLE {new} ()", "CREATE TABLE log ()",
    "INSERT INTO log (note) VALUES ('open", "INSERT INTO log (note) VALUES ($$open", "/* open",
    "COPY log (note) FROM stdin", "\\connect other", "INSERT INTO nowhere VALUES (1)",
    "ALTER TYPE mood ADD VALUE '{new}'; INSERT INTO moods VALUES ('{new}')", "LOCK TABLE log",
    "COPY log (note) TO STDOUT", "SET client_encoding = 'LATIN1'", "SET NAMES 'LATIN1'",
    "SET standard_conforming_strings = off", "SET default_transaction_read_only = on",
    "DISCARD ALL", "CHECKPOINT", "LISTEN x", "DECLARE c CURSOR FOR SELECT 1", "RELEASE s",
]  # fmt: skip
PREPARED = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
EMPTY = "DROP SCHEMA public CASCADE; CREATE SCHEMA public"
SETTING = """
CREATE TABLE log (n serial, note text);
CREATE TYPE mood AS ENUM ('good');
CREATE TABLE moods (mood mood);
"""


class Outcome(NamedTuple):
    """`said` is "applied", "failed" or "refused"; `why` the tool's or the console's words."""

    said: str
    why: str


class Dice:
    """What files are made of, from one seed."""

    def __init__(self, seed: int) -> None:
        self.random, self.number = random.Random(seed), 0

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def choose(self, *of: str, usual: str | None = None, share: float = 0.7) -> str:
        if usual is not None and self.chance(share):
            return usual
        return self.random.choice(of)

    def statement(self, trouble: float) -> str:
        self.number += 1
        kind = TROUBLE if self.chance(trouble) else STATEMENTS
        return self.random.choice(kind).replace("{new}", f"n{self.number}")

    def script(self, trouble: float, at_most: int = 5) -> str:
        count = self.random.randint(1, at_most)
        text = ";\n".join(self.statement(trouble) for _ in range(count))
        return text + self.choose("", ";;\n", ";\n-- end", " ;", usual=";\n")

    def line_ends(self, text: str) -> bytes:
        end = self.choose("\r\n", "\r", usual="\n", share=0.85)
        return text.replace("\n", end).encode()


def dbmate_file(dice: Dice) -> bytes:
    markers = ["--migrate:{}", "--\tmigrate:{} ", " -- migrate:{}", "-- Migrate:{}", "-- migrate: {}",
               "-- migrate:{}grade", "--- migrate:{}", "-- migrate:{} -- why"]  # fmt: skip
    up = dice.choose(*markers, usual="-- migrate:{}", share=0.85).format("up")
    down = dice.choose(*markers, usual="-- migrate:{}", share=0.85).format("down")
    options = dice.choose(" transaction:true", " transaction:FALSE", usual="", share=0.9)
    options = " transaction:false" if dice.chance(0.25) else options
    lead = dice.choose(
        "-- why\n\n", "\n\n", "\ufeff", "SELECT 1;\n", "/* why */\n", usual="", share=0.85
    )
    inside = dice.choose("-- migrate:up-to-date\n", "'\n-- migrate:down\n'", usual="", share=0.95)
    text = f"{lead}{up}{options}\n{inside}{dice.script(0.08)}{down}\n{dice.script(0.02, 2)}"
    if dice.chance(0.05):
        text += f"{up}\n{dice.script(0.0, 2)}{down}\n"
    if dice.chance(0.03):
        text = text.replace(f"{down}\n", "")
    return dice.line_ends(text)


def state_of(dsn: str, history: str) -> object:
    """Columns, types, indexes and rows of everything in the schema, and the history's rows."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        columns = connection.execute(
            "SELECT c.relkind, c.relname, a.attname, format_type(a.atttypid, a.atttypmod),"
            " obj_description(c.oid, 'pg_class') FROM pg_class c JOIN pg_attribute a ON a.attrelid ="
            " c.oid WHERE c.relnamespace = 'public'::regnamespace AND a.attnum > 0"
            " AND c.relname !~ 'migrations' ORDER BY 1, 2, a.attnum"
        ).fetchall()
        others = connection.execute(
            "SELECT proname, '' FROM pg_proc WHERE pronamespace = 'public'::regnamespace UNION ALL"
            " SELECT t.typname, e.enumlabel FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid"
            " UNION ALL SELECT ev_class::regclass::text, rulename FROM pg_rewrite WHERE oid > 16384"
            " ORDER BY 1, 2"
        ).fetchall()
        notes = connection.execute(
            "SELECT note FROM log ORDER BY n" if ("r", "log", "note") in {c[:3] for c in columns}
            else "SELECT 'gone'"
        ).fetchall()  # fmt: skip
        there = connection.execute("SELECT to_regclass(%s)", [history.split()[-1]]).fetchone()
        rows = connection.execute(history).fetchall() if there and there[0] else []
        return columns, others, notes, sorted(rows)


def start_over(dsns: list[str], engine: Engine) -> None:
    """With an empty history, for Prisma takes no database that has tables and none."""
    for dsn in dsns:
        forget_prepared(dsn)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(EMPTY)
            engine.ensure_history(connection)
            connection.execute(SETTING)


def forget_prepared(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for (prepared,) in connection.execute(PREPARED).fetchall():
            connection.execute(f"ROLLBACK PREPARED '{prepared}'")


def by_console(engine: Engine, dsn: str) -> Outcome:
    """As in a run: all that is refused is refused before the first runs, on one session."""
    reading = engine.read_folder()
    refusals = [*reading.problems, *(s.refusal for s in reading.scripts if s.refusal)]
    if refusals:
        return Outcome("refused", refusals[0])
    with psycopg.connect(dsn, autocommit=True) as connection:
        engine.ensure_history(connection)
        engine.begin_session(connection)
        for script in reading.scripts:
            try:
                engine.apply(connection, script, Limits(), lambda *_: None, lambda _: None)
            except ScriptFailed as failure:
                return Outcome("failed", failure.reason)
            except AdapterError as error:
                return Outcome("refused", str(error))
            except psycopg.Error as error:
                # Of its own statements, after a file that left the session read only.
                return Outcome("failed", str(error))
    return Outcome("applied", "")


def judge(ours: Outcome, theirs: Outcome, text: bytes) -> str:
    """What it came to; fails where neither the same nor a difference that is listed."""
    about = (SEED, text.decode(errors="replace"), ours, theirs)
    if ours.said == "refused":
        assert theirs.said == "failed" or ON_PURPOSE.search(ours.why), about
        return "refused"
    if ours.said != theirs.said:
        assert ours.said == "applied", about
        assert ALONE.search(theirs.why) or READ_ONLY in text, about
        return "applied though the tool rejects it"
    return ours.said


# -- dbmate


@pytest.fixture
def pair(database) -> Iterator[list[str]]:
    print(f"\nseed {SEED}", flush=True)
    made = [database(), database()]
    yield made
    for dsn in made:
        forget_prepared(dsn)


def by_dbmate(folder: Path, dsn: str) -> Outcome:
    try:
        done = run_dbmate(folder, dsn)
    except subprocess.TimeoutExpired as error:
        # It waits for what its own session left prepared.
        return Outcome("failed", f"it does not end: {error.stdout!r}")
    return Outcome("failed" if done.returncode else "applied", done.stdout + done.stderr)


@pytest.mark.needs_dbmate
def test_file_of_dbmate_means_the_same_here(tmp_path, pair):
    dice, came_to = Dice(SEED), Counter[str]()
    ours_dsn, theirs_dsn = pair
    for _number in range(COUNT or 60):
        text = dbmate_file(dice)
        (tmp_path / f"{NAME}.sql").write_bytes(text)
        engine = DbmateEngine(tmp_path)
        start_over(pair, engine)
        ours, theirs = by_console(engine, ours_dsn), by_dbmate(tmp_path, theirs_dsn)
        verdict = judge(ours, theirs, text)
        came_to[verdict] += 1
        # What stood before it stays, as docs/engines.md says.
        if ours.said == theirs.said and not ALONE.search(theirs.why):
            history = "SELECT version FROM schema_migrations"
            found, expected = (state_of(dsn, history) for dsn in pair)
            assert found == expected, (SEED, text.decode(), ours, theirs)
    print(f"\nseed {SEED}: {came_to.total()} files of dbmate, {dict(came_to)}")
    assert came_to["applied"] > came_to.total() / 4


# -- Prisma

HISTORY = """
SELECT migration_name, checksum, applied_steps_count, finished_at IS NULL, rolled_back_at IS NULL,
       coalesce(logs, '') <> '' FROM _prisma_migrations
"""
SINGLE = [
    *(f"{text};\n" for text in TROUBLE),
    *(f"BEGIN;\n{text};\nCOMMIT;\n" for text in TROUBLE[:12]),
    "begin; INSERT INTO log (note) VALUES ('a'); commit; INSERT INTO log (note) VALUES ('b'); SELECT 1/0;",
    "BEGIN ISOLATION LEVEL SERIALIZABLE, READ WRITE, DEFERRABLE;\nSELECT 1;\nEND TRANSACTION;",
    "BEGIN;\nSET TRANSACTION ISOLATION LEVEL REPEATABLE READ;\nINSERT INTO log (note) VALUES ('r');\nCOMMIT;",
    "DO $$ BEGIN INSERT INTO log (note) VALUES ('x'); COMMIT; END $$;",
    "BEGIN; INSERT INTO log (note) VALUES ('lost');",
    "COMMIT; INSERT INTO log (note) VALUES ('kept');",
    "\ufeffINSERT INTO log (note) VALUES ('bom');",
    "INSERT INTO log (note) VALUES ('a')\r;\rINSERT INTO log (note) VALUES ('b');\r",
    "-- a comment\rINSERT INTO log (note) VALUES ('swallowed?');\n",
    "INSERT INTO log (note) VALUES ('windows');\r\nSELECT 1;\r\n",
    "/* /* */ INSERT INTO log (note) VALUES ('nested'); */ SELECT 1;",
    "SELECT 'it''s', E'\\'', U&'d\\0061t', B'1', $q$;$q$, $$;$$; SELECT 1/0;",
    "-- migrate:up\nINSERT INTO log (note) VALUES ('up');\n-- migrate:down\nDROP TABLE log;\n",
    "", " \n", "-- nothing", ";;;",
    "SET standard_conforming_strings = off; INSERT INTO log (note) VALUES ('a\\'';b');",
]  # fmt: skip
BYTES = [
    "INSERT INTO log (note) VALUES ('ü');".encode("latin-1"),
    "INSERT INTO log (note) VALUES ('ü');".encode("utf-16"),
    b"INSERT INTO log (note) VALUES ('a\0b');",
]


@pytest.fixture
def migrations(project) -> Path:  # noqa: F811
    folder = project / "prisma" / "migrations"
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "migration_lock.toml").write_text('provider = "postgresql"\n')
    return folder


def write(migrations: Path, files: list[bytes]) -> None:
    for old in migrations.glob("2*"):
        shutil.rmtree(old)
    for number, text in enumerate(files, 1):
        made = migrations / f"2025{number:010}_n"
        made.mkdir()
        (made / "migration.sql").write_bytes(text)


def by_prisma(root: Path, dsn: str) -> Outcome:
    said = run_prisma(root, dsn, "migrate", "deploy")
    is_done = "successfully applied" in said or "No pending migrations" in said
    return Outcome("applied" if is_done else "failed", said)


def compare(project: Path, migrations: Path, pair: list[str], files: list[bytes]) -> str:  # noqa: F811
    write(migrations, files)
    engine = PrismaEngine(migrations)
    start_over(pair, engine)
    ours, theirs = by_console(engine, pair[0]), by_prisma(project, pair[1])
    verdict = judge(ours, theirs, b"\n=====\n".join(files))
    if ours.said == theirs.said:
        found, expected = (state_of(dsn, HISTORY) for dsn in pair)
        assert found == expected, (SEED, files, ours, theirs)
    return verdict


@pytest.mark.needs_prisma
def test_history_of_prisma_means_the_same_here(project, migrations, pair):  # noqa: F811
    dice, came_to = Dice(SEED), Counter[str]()
    for _number in range(40 if COUNT else 1):
        files = [dice.line_ends(dice.script(0.001)) for _file in range(50)]
        came_to[compare(project, migrations, pair, files)] += 1
    print(f"\nseed {SEED}: {came_to.total()} histories of 50 files of Prisma, {dict(came_to)}")


@pytest.mark.needs_prisma
def test_single_file_of_prisma_means_the_same_here(project, migrations, pair):  # noqa: F811
    came_to = Counter[str]()
    files = [*(text.replace("{new}", "n1").encode() for text in SINGLE), *BYTES]
    for text in files if COUNT else random.Random(SEED).sample(files, 4):
        came_to[compare(project, migrations, pair, [text])] += 1
    print(f"\n{came_to.total()} single files of Prisma, {dict(came_to)}")
