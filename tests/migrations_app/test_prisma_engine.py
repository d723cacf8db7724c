"""The rules of Prisma's folder and history table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pglast.parser import ParseError, scan

from migrations_app.engines import AppliedMigration, Limits
from migrations_app.engines.prisma import (
    ADVISORY_LOCK,
    PrismaEngine,
    checksum_of,
    matches,
)
from migrations_app.engines.statements import (
    SPACE,
    changed_tables,
    is_one_transaction,
    left_open,
    split_statements,
    values_used_at_once,
)
from opsconsole.exceptions import AdapterError
from opsconsole.targets.server import read_facts

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SQL = "SELECT 1;\n"


@pytest.fixture
def engine(tmp_path) -> PrismaEngine:
    return PrismaEngine(tmp_path)


def script(engine: PrismaEngine, name: str = "1_a", text: str = SQL) -> None:
    path = engine.folder / name
    path.mkdir(exist_ok=True)
    (path / "migration.sql").write_bytes(text.encode())


def row(
    name: str = "1_a",
    *,
    done: bool = True,
    rolled: bool = False,
    text: str = SQL,
    steps: int = 1,
    logs: str | None = None,
    at: datetime = NOW,
) -> AppliedMigration:
    end = at + timedelta(seconds=1) if steps else at
    return AppliedMigration(
        id="x",
        name=name,
        checksum=checksum_of(text),
        started_at=at,
        finished_at=end if done else None,
        rolled_back_at=end if rolled else None,
        logs=logs,
        steps=steps,
    )


def states(engine: PrismaEngine, *rows: AppliedMigration, is_locked: bool = False) -> list[tuple]:
    found = engine.compare(engine.read_folder().scripts, list(rows), is_locked=is_locked)
    return [(s.name, s.state) for s in found]


def test_name_without_row_is_pending(engine):
    script(engine)
    assert states(engine) == [("1_a", "pending")]


def test_finished_row_is_applied(engine):
    script(engine)
    assert states(engine, row()) == [("1_a", "applied")]


def test_open_row_is_failed_and_running_while_the_lock_is_held(engine):
    script(engine)
    assert states(engine, row(done=False)) == [("1_a", "failed")]
    assert states(engine, row(done=False), is_locked=True) == [("1_a", "running")]


def test_open_row_beside_a_finished_one_is_failed(engine):
    script(engine)
    assert states(engine, row(), row(done=False)) == [("1_a", "failed")]


def test_only_rolled_back_rows_are_pending_again(engine):
    script(engine)
    assert states(engine, row(done=False, rolled=True)) == [("1_a", "pending")]


def test_other_checksum_is_edited_by_the_live_row_not_the_first(engine):
    script(engine, text="SELECT 2;\n")
    assert states(engine, row(text=SQL)) == [("1_a", "edited")]
    assert states(engine, row(done=False, rolled=True), row(text="SELECT 2;\n")) == [
        ("1_a", "applied")
    ]


def test_row_without_folder_is_missing_locally_unless_rolled_back(engine):
    assert states(engine, row()) == [("1_a", "missing_locally")]
    assert states(engine, row(done=False, rolled=True)) == []


def test_pending_before_the_newest_applied_is_out_of_order(engine):
    script(engine, "1_a")
    script(engine, "2_b")
    assert states(engine, row("2_b")) == [("1_a", "out_of_order"), ("2_b", "applied")]


def test_row_of_resolve_applied_is_known_as_by_hand(engine):
    script(engine)
    found = engine.compare(engine.read_folder().scripts, [row(steps=0)], is_locked=False)
    assert [s.resolved_by_hand for s in found] == [True]


@given(st.lists(st.sampled_from(["a", "\n", "\r\n", "é", "'", ";"])).map("".join))
def test_checksum_matches_whatever_the_line_endings(text):
    unix = text.replace("\r\n", "\n")
    stored = checksum_of(unix)
    assert matches(unix, stored)
    assert matches(unix.replace("\n", "\r\n"), stored)
    assert not matches(unix + "x", stored)


def test_folder_problems_are_named(engine):
    (engine.folder / "1_empty").mkdir()
    (engine.folder / "2_binary").mkdir()
    (engine.folder / "2_binary" / "migration.sql").write_bytes(b"\xff\xfe")
    (engine.folder / "migration_lock.toml").write_text('provider = "mysql"\n')
    problems = engine.read_folder().problems
    assert [p.split(" ")[0] for p in problems] == [
        "migration_lock.toml",
        "1_empty",
        "2_binary/migration.sql",
    ]


def test_unreadable_lock_file_is_a_problem(engine):
    (engine.folder / "migration_lock.toml").write_text("provider = ")
    assert "cannot be read" in engine.read_folder().problems[0]


def test_missing_folder_is_an_error_that_names_it():
    with pytest.raises(AdapterError, match="cannot read /nowhere"):
        PrismaEngine(Path("/nowhere")).read_folder()


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("package-lock.json", '{"packages": {"node_modules/prisma": {"version": "6.19.3"}}}'),
        ("package.json", '{"devDependencies": {"prisma": "^6.19.3"}}'),
        ("package.json", '{"dependencies": {"prisma": "6.19.3"}}'),
    ],
)
def test_tool_version_is_read_from_the_project(tmp_path, file, text):
    folder = tmp_path / "prisma" / "migrations"
    folder.mkdir(parents=True)
    (tmp_path / file).write_text(text)
    assert PrismaEngine(folder).read_folder().tool_version == "6.19.3"


def test_concurrently_beside_other_statements_is_refused_before_prisma_7_4(tmp_path):
    folder = tmp_path / "prisma" / "migrations"
    folder.mkdir(parents=True)
    engine = PrismaEngine(folder)
    script(engine, text="SELECT 1;\nCREATE INDEX CONCURRENTLY i ON t (x);\n")
    assert "line 2 cannot run inside a transaction" in engine.read_folder().scripts[0].refusal
    (tmp_path / "package.json").write_text('{"devDependencies": {"prisma": "7.4.0"}}')
    assert engine.read_folder().scripts[0].refusal == ""


# -- statements


def test_statements_have_the_line_they_start_on():
    found = split_statements("-- é\nSELECT 1;\n\n/* two\nlines */ UPDATE t\nSET a = ';';\n")
    assert [(s.line, s.kind) for s in found] == [(2, "Select"), (5, "Update")]


def test_function_bodies_stay_whole():
    text = (
        "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$ BEGIN; RETURN 1; END $$;\nSELECT 1;"
    )
    assert [s.kind for s in split_statements(text)] == ["CreateFunction", "Select"]


def test_text_that_the_parser_rejects_is_split_by_the_scanner():
    found = split_statements("SELECT 'é;' AS f(1);\n-- ;\nSELEKT 2;;\n\nlast")
    assert [(s.line, s.kind, s.text) for s in found] == [
        (1, "unparsed", "SELECT 'é;' AS f(1)"),
        (3, "unparsed", "SELEKT 2"),
        (5, "unparsed", "last"),
    ]


PIECES = st.sampled_from(
    ["SELECT 1", "CREATE TABLE a (id int)", ";", ";;", "-- no ; \n", "/* ; */", "$$", "$x$", "'", '"',
     "E'\\'", "(", ")", "BEGIN", "COMMIT", "é", "\ufeff", "\xa0", "\n", "\r", "\r\n", "\t", "\\restrict x",
     "SELEKT 2", "CREATE RULE r AS ON INSERT TO t DO (DELETE FROM u; DELETE FROM v)", "'é;'",
     "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT 2; END"]
)  # fmt: skip


def words(sql: str) -> list[str]:
    """What a text says to the server: without comments and semicolons."""
    skipped = {"SQL_COMMENT", "C_COMMENT", "ASCII_59"}
    return [sql[t.start : t.end + 1] for t in scan(sql) if t.name not in skipped]


@given(st.lists(PIECES, max_size=14).map(" ".join))
@example("SELECT 1;\n\xa0\nSELECT 2;")
@example("SELECT 1 \xa0")
@example("SELECT 1 \xa0 -- no\n; SELECT 2 \xa0;")
def test_no_word_of_a_file_is_lost(text):
    found = split_statements(text)
    try:
        expected = words(text)
    except ParseError:
        assert [statement.text for statement in found] == [text.strip(SPACE)]
    else:
        assert [word for statement in found for word in words(statement.text)] == expected


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("BEGIN;\nSELECT 1;\n", 1),
        ("SELECT 1;\nSTART TRANSACTION;\nBEGIN;\nSELECT 1;", 2),
        ("BEGIN;\nCOMMIT;\nBEGIN;", 3),
        ("BEGIN;\nCOMMIT AND CHAIN;\nSELECT 1;", 2),
        ("BEGIN;\nROLLBACK AND CHAIN;\nSELECT 1;", 2),
        ("BEGIN;\nSAVEPOINT s;\nROLLBACK TO s;\nRELEASE s;\n", 1),
        ("BEGIN;\nCOMMIT PREPARED 'x';\n", 1),
        ("BEGIN; SELECT 1; COMMIT;", None),
        ("BEGIN; SELECT 1; ABORT;", None),
        ("BEGIN; SELECT 1; END WORK;", None),
        ("BEGIN; COMMIT AND CHAIN; SELECT 1; COMMIT;", None),
        ("BEGIN; SELECT 1; PREPARE TRANSACTION 'x';", None),
        ("COMMIT; SELECT 1;", None),
        ("SELECT 'BEGIN;';", None),
    ],
)
def test_transaction_that_the_file_does_not_end_is_found(text, line):
    opened = left_open(split_statements(text))
    assert (opened.line if opened else None) == line


def test_unterminated_text_is_one_statement():
    assert len(split_statements("SELECT 'open")) == 1
    assert split_statements("-- nothing\n") == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\ufeffSELECT 1;", "begins with a byte order mark"),
        ("-- x\n\\restrict abc\nSELECT 1;", "line 2 is a command of psql (\\restrict), which"),
        ("SELECT 1;\n  \\connect shop\n", "line 2 is a command of psql (\\connect), which"),
        ("SELECT 1;\nCOPY t FROM stdin;\n1\t2\n\\.\n", "line 2 reads rows from its client"),
        (
            "-- rows\ncopy t (a, b) from STDIN with (format csv);",
            "line 2 reads rows from its client",
        ),
        ("COPY t FROM '/tmp/x'; COPY t TO '/tmp/y';", ""),
        ("SELECT 1;\nCOPY t TO stdout;", "line 2 sends rows to its client, which takes none"),
        ("SELEKT 1;\nCOPY t TO stdout;", "line 2 sends rows to its client, which takes none"),
        ("SELECT E'\n\\restrict'; SELEKT 'COPY t FROM stdin';", ""),
        ("SELECT 'COPY t FROM stdin';", ""),
    ],
)
def test_what_the_server_cannot_take_from_its_tool_is_refused_with_its_line(text, said):
    refusal = PrismaEngine.script_of("1_a", text).refusal
    assert refusal.startswith(said)
    assert bool(refusal) is bool(said)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("ALTER TYPE mood ADD VALUE 'sad';\nUPDATE p SET m = 'sad';", [2]),
        ("ALTER TYPE s.mood ADD VALUE IF NOT EXISTS 'sad' AFTER 'ok';\nALTER TABLE p ALTER m"
         " SET DEFAULT 'sad';\nSELECT 1;", [2]),
        ("ALTER TYPE mood ADD VALUE 'sad';\nCOMMIT;\nUPDATE p SET m = 'sad';", []),
        ("ALTER TYPE mood ADD VALUE 'sad';\nALTER TYPE mood ADD VALUE 'b' AFTER 'sad';", []),
        ("CREATE TYPE mood AS ENUM ();\nALTER TYPE mood ADD VALUE 'sad';\nSELECT 'sad'::mood;", []),
        ("ALTER TYPE mood RENAME VALUE 'a' TO 'sad';\nUPDATE p SET m = 'sad';", []),
        ("UPDATE p SET m = 'sad';\nALTER TYPE mood ADD VALUE 'sad';", []),
    ],
)  # fmt: skip
def test_enum_value_that_is_used_where_it_is_added_is_found(text, lines):
    found = values_used_at_once(split_statements(text))
    assert [(statement.line, value) for statement, value in found] == [(n, "sad") for n in lines]


@pytest.mark.parametrize(
    ("text", "is_atomic"),
    [
        ("ALTER TABLE t ADD c int; UPDATE t SET c = 1;", True),
        ("BEGIN; ALTER TABLE t ADD c int; COMMIT;", True),
        ("START TRANSACTION; SELECT 1; END;", True),
        ("BEGIN; SELECT 1; COMMIT; SELECT 2;", False),
        ("CREATE INDEX CONCURRENTLY i ON t (c);", False),
        ("DROP INDEX CONCURRENTLY i;", False),
        ("REINDEX INDEX CONCURRENTLY i;", False),
        ("REINDEX INDEX i;", True),
        ("VACUUM t;", False),
        ("ANALYZE t;", True),
        ("CREATE DATABASE d;", False),
        ("ALTER SYSTEM SET work_mem = '1MB';", False),
        ("ALTER TABLE p DETACH PARTITION q CONCURRENTLY;", False),
        ("ALTER TABLE p DETACH PARTITION q;", True),
    ],
)
def test_atomic_is_what_one_transaction_can_hold(text, is_atomic):
    assert is_one_transaction(split_statements(text)) is is_atomic


def test_changed_tables_are_those_that_the_script_mentions():
    text = (
        'ALTER TABLE "a" ADD x int; CREATE INDEX ON public.b (y); DROP TABLE c, s.d;'
        " ALTER TABLE e RENAME TO f;"
    )
    assert changed_tables(text) == {"a", "b", "c", "s", "d", "e", "f"}
    assert changed_tables("SELEKT") == set()


# -- against a server


@pytest.fixture
def connection(database):
    with psycopg.connect(database(), autocommit=True) as open_one:
        yield open_one


def apply(engine: PrismaEngine, connection: psycopg.Connection, log=lambda *_: None):
    engine.ensure_history(connection)
    return engine.apply(connection, engine.read_folder().scripts[0], Limits(), log, lambda _: None)


def test_history_of_an_empty_database_is_empty(engine, connection):
    assert engine.read_history(connection) == []


def test_schema_with_tables_and_no_history_asks_for_a_baseline(engine, connection):
    connection.execute("CREATE TABLE t ()")
    with pytest.raises(AdapterError, match="P3005"):
        engine.ensure_history(connection)


def test_notices_are_logged_with_sqlstate_file_and_line(engine, connection):
    script(engine, text="SELECT 1;\nDO $$ BEGIN RAISE WARNING 'careful'; END $$;\n")
    said: list[tuple] = []
    apply(engine, connection, lambda *line: said.append(line))
    assert said == [("  WARNING 01000: careful (1_a/migration.sql line 2)", "hm")]


def test_own_rows_are_counted(engine, connection):
    connection.execute("CREATE SCHEMA s; CREATE TABLE s.t (x int)")
    script(engine, text="INSERT INTO s.t SELECT generate_series(1, 7);\n")
    assert apply(engine, connection).rows_written == 7


def test_failed_concurrent_index_leaves_no_invalid_index(engine, connection):
    connection.execute(
        "CREATE SCHEMA s; CREATE TABLE s.t AS SELECT 1 AS x FROM generate_series(1, 2)"
    )
    script(engine, text="CREATE UNIQUE INDEX CONCURRENTLY i ON s.t (x);\n")
    said: list[str] = []
    with pytest.raises(AdapterError, match="23505"):
        apply(engine, connection, lambda text, _tone: said.append(text))
    assert connection.execute("SELECT to_regclass('s.i')").fetchone() == (None,) or any(
        "dropped" in text for text in said
    )


def test_prisma_lock_is_polled_and_refused_after_the_wait(engine, connection, database):
    with psycopg.connect(connection.info.dsn, password=connection.info.password) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [ADVISORY_LOCK])
        holder = read_facts(connection, engine.advisory_lock).lock_holder
        assert (holder or {}).get("pid") == other.info.backend_pid
        with pytest.raises(AdapterError, match="Prisma's own lock is held"):
            engine.take_lock(connection, Limits(tool_lock_wait=0.3), lambda _: None)
    engine.take_lock(connection, Limits(), lambda _: None)


def test_marks_refuse_what_prisma_would_refuse(engine, connection):
    script(engine)
    apply(engine, connection)
    done = engine.read_folder().scripts[0]
    with pytest.raises(AdapterError, match="P3011"):
        engine.mark_rolled_back(connection, "1_a")
    with pytest.raises(AdapterError, match="P3008"):
        engine.mark_applied(connection, done)


def test_mark_applied_closes_the_failed_row_and_adds_one_by_hand(engine, connection):
    script(engine, text="SELECT 1/0;\n")
    with pytest.raises(AdapterError, match="22012"):
        apply(engine, connection)
    engine.mark_applied(connection, engine.read_folder().scripts[0])
    rows = engine.read_history(connection)
    assert sorted((r.finished_at is None, r.rolled_back_at is None) for r in rows) == [
        (False, True),
        (True, False),
    ]
