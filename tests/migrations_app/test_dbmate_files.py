"""Every spelling of dbmate's markers: the same verdict and the same effect as the real dbmate."""

from __future__ import annotations

import os
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from migrations_app.engines.dbmate import DbmateEngine
from migrations_app.engines.dbmate_file import Sections, read_sections
from migrations_app.engines.kinds import Limits, ScriptFailed
from opsconsole.exceptions import AdapterError
from tests.conftest import PASSWORD
from tests.toolbox import dbmate

NAME = "20250101000000_a"
A, B = "CREATE TABLE a (id int);", "CREATE TABLE b (id int);"
UP, DOWN = "-- migrate:up", "-- migrate:down"
PLAIN = f"{UP}\n{A}\n{DOWN}\nDROP TABLE a;\n"

# What each applies: the tables that are there afterwards, and whether the script is atomic.
APPLIED: dict[str, tuple[str, list[str]]] = {
    "plain": (PLAIN, ["a"]),
    "windows line ends": (PLAIN.replace("\n", "\r\n"), ["a"]),
    "no line end at the end": (f"{UP}\n{A}\n{DOWN}", ["a"]),
    "no space": (f"--migrate:up\n{A}\n--migrate:down\n", ["a"]),
    "tab": (f"--\tmigrate:up\n{A}\n--\tmigrate:down\n", ["a"]),
    "many spaces": (f"--    migrate:up   \n{A}\n--   migrate:down\t\n", ["a"]),
    "form feed": (f"--\fmigrate:up\f\n{A}\n--\fmigrate:down\n", ["a"]),
    "text after": (f"{UP} the tables of A\n{A}\n{DOWN} all of it goes\n{B}", ["a"]),
    "comment after": (f"{UP} -- {A}\n{B}\n{DOWN} /*\n", ["b"]),
    "comments and blank lines before": (f"-- one\n \t\n  -- two\n\r\n---\n{PLAIN}", ["a"]),
    "down before up, nothing in it": (f"{DOWN}\n\n{PLAIN}", ["a"]),
    "empty up": (f"{UP}\n{DOWN}\n{A}\n", []),
    "only a comment in up": (f"{UP}\n-- {A}\n{DOWN}\n", []),
    "only semicolons in up": (f"{UP}\n;;\n{DOWN}\n", []),
    "indented up is a comment": (f"{UP}\n{A}\n {UP}\n{B}\n{DOWN}\n", ["a", "b"]),
    "indented down is a comment": (f"{UP}\n{A}\n\t{DOWN}\n{B}\n{DOWN}\n", ["a", "b"]),
    "capital up is a comment": (f"{UP}\n{A}\n-- Migrate:Up\n{B}\n{DOWN}\n", ["a", "b"]),
    "capital down is a comment": (f"{UP}\n{A}\n-- MIGRATE:DOWN\n{B}\n{DOWN}\n", ["a", "b"]),
    "three dashes are a comment": (f"{UP}\n{A}\n--- migrate:up\n{B}\n{DOWN}\n", ["a", "b"]),
    "longer word is a comment": (f"{UP}\n{A}\n-- migrate:upgrade\n{B}\n{DOWN}\n", ["a", "b"]),
    "colon after is a comment": (f"{UP}\n{A}\n-- migrate:down:\n{B}\n{DOWN}\n", ["a", "b"]),
    "space within is a comment": (f"{UP}\n{A}\n-- migrate: down\n{B}\n{DOWN}\n", ["a", "b"]),
    "hard space is a comment": (f"{UP}\n{A}\n--\xa0migrate:up\n{B}\n{DOWN}\n", ["a", "b"]),
    "hard space after is a comment": (f"{UP}\n{A}\n{DOWN}\xa0\n{B}\n{DOWN}\n", ["a", "b"]),
    "vertical tab is a comment": (f"{UP}\n{A}\n--\vmigrate:up\n{B}\n{DOWN}\n", ["a", "b"]),
    "marker after a statement is a comment": (f"{UP}\n{A} {UP}\n{B} {DOWN}\n{DOWN}\n", ["a", "b"]),
    "carriage return ends the marker": (f"{UP}\r{A}\n{DOWN}\n", ["a"]),
    "carriage return hides the down": (f"{UP}\n{A}\n-- x\r{DOWN}\r{B}\n{DOWN}\n", ["a", "b"]),
    "down in a block comment": (f"{UP}\n{A}\n/* */\n{DOWN}\n*/\n{B}\n", ["a"]),
    "down broken in two": (f"{UP}\n{A}\n--\nmigrate:down\n{B}\n", ["a"]),
    "transaction left open": (f"{UP}\nBEGIN;\n{A}\n{DOWN}\n", ["a"]),
    "down in what is dropped": (f"{UP}\n{A}\n{DOWN}\n{B}\n-- Migrate:down\n{B}\n", ["a"]),
}  # fmt: skip

# The line and the remedy that a file is refused with; dbmate rejects it too.
REFUSED: dict[str, tuple[str, str]] = {
    "empty": ("", "line 1 begins no `-- migrate:up` section: put that line above"),
    "no marker": (A, "line 1 begins no `-- migrate:up` section: put that line above"),
    "only down": (f"{DOWN}\n{A}\n", "line 1 begins no `-- migrate:up` section"),
    "old Mac line ends": (PLAIN.replace("\n", "\r"), "line 1 begins a `-- migrate:up` section w"),
    "indented up": (f"\n  {UP}\n{A}\n{DOWN}\n", "line 2 is no marker to dbmate: write `-- migrate:up`"),
    "capital up": (f"-- MIGRATE:UP\n{A}\n{DOWN}\n", "line 1 is no marker to dbmate: write"),
    "colon after up": (f"{UP}:x\n{A}\n{DOWN}\n", "line 1 is no marker to dbmate: write"),
    "hard space after up": (f"{UP}\xa0\n{A}\n{DOWN}\n", "line 1 is no marker to dbmate: write"),
    "byte order mark": (f"\ufeff{PLAIN}", "line 1 begins with an invisible byte order mark"),
    "byte order mark before": (f"\ufeff\n{PLAIN}", "line 1 begins with an invisible byte order"),
    "no down": (f"\n{UP}\n{A}\n", "line 2 begins a `-- migrate:up` section without its `-- migra"),
    "indented down": (f"{UP}\n{A}\n {DOWN}\n", "line 3 is no marker to dbmate: write `-- migrate:down`"),
    "capital down": (f"{UP}\n{A}\n-- Migrate:Down\n", "line 3 is no marker to dbmate: write"),
    "down before up": (f"{DOWN}\n{UP}\n{A}\n", "line 2 begins a `-- migrate:up` section without"),
    "filled down before up": (f"{DOWN}\n{A}\n{UP}\n{B}\n{DOWN}\n", "line 2 comes before `-- migrat"),
    "two ups": (f"{UP}\n{A}\n{UP}\n{B}\n{DOWN}\n", "line 1 begins a `-- migrate:up` section withou"),
    "two ups in one line": (f"{UP}\n{UP}\n{A}\n{DOWN}\n", "line 1 begins a `-- migrate:up` section w"),
    "two downs": (f"{UP}\n{A}\n{DOWN}\n{B}\n{DOWN}\n", "line 5 is a second `-- migrate:down`"),
    "two downs at once": (f"{UP}\n{A}\n{DOWN}\n\n{DOWN}\n", "line 5 is a second `-- migrate:down`"),
    "second up without a down": (f"{PLAIN}{UP}\n{B}\n", "line 5 begins a second `-- migrate:up`"),
    "statement before": (f"-- one\n{B}\n{PLAIN}", "line 2 comes before `-- migrate:up`, where"),
    "block comment before": (f"/* one */\n{PLAIN}", "line 1 comes before `-- migrate:up`, where"),
    "hard space before": (f"\xa0\n{PLAIN}", "line 1 comes before `-- migrate:up`, where"),
    "vertical tab before": (f"\v\n{PLAIN}", "line 1 comes before `-- migrate:up`, where"),
    "up broken in two": (f"--\nmigrate:up\n{A}\n{DOWN}\n", "line 1 breaks its `-- migrate:up` in two"),
    "up broken by a carriage return": (f"--\rmigrate:up\n{A}\n{DOWN}\n", "line 1 breaks its `-- mi"),
    "vacuum in a transaction": (f"{UP}\nVACUUM;\n{DOWN}\n", "line 2 cannot run inside a trans"),
}  # fmt: skip

# dbmate applies the first section, records the file, and only then fails.
HALF: dict[str, tuple[str, str]] = {
    "two sections": (f"{PLAIN}\n{UP}\n{B}\n{DOWN}\n", "line 6 begins a second `-- migrate:up`"),
    "second section in a function's body": (
        f"{PLAIN}{UP}\nCREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$\n{DOWN}\nSELECT 1 $$;",
        "line 5 begins a second `-- migrate:up`",
    ),
    "two sections, --migrate:up": (f"{PLAIN}--migrate:up x\n{DOWN}\n", "line 5 begins a second"),
}

# dbmate applies them; docs/engines.md says why they are refused.
REFUSED_ON_PURPOSE: dict[str, tuple[str, str]] = {
    "second transaction left open": (
        f"{UP}\nBEGIN;\n{A}\nCOMMIT;\nBEGIN;\n{B}\n{DOWN}\n",
        "line 4 ends the transaction that the tool began",
    ),
    "chained transaction": (
        f"{UP}\nBEGIN;\n{A}\nCOMMIT AND CHAIN;\n{B}\n{DOWN}\n",
        "line 4 ends the transaction that the tool began",
    ),
}

# The server rejects what is left of the up section; nothing is recorded.
BROKEN: dict[str, str] = {
    "down in a string": f"{UP}\nCREATE TABLE a (t text DEFAULT '\n{DOWN}\n');\n",
    "down in a dollar quote": f"{UP}\n{A}\nDO $$ BEGIN\n{DOWN}\nEND $$;\n",
    "down in an open comment": f"{UP}\n{A}\n/*\n{DOWN}\n*/\n",
    "misspelt statement": f"{UP}\n{A}\nCRATE TABLE b (id int);\n{DOWN}\n",
    "statement that fails": f"{UP}\n{A}\n{A}\n{DOWN}\n",
}

# What the first line says of transactions: whether there is one.
OPTIONS = {
    "": True,
    " transaction:false": False,
    "\ttransaction:false\r": False,
    " transaction:false\xa0": False,
    " -- transaction:false": False,
    " other:thing   transaction:false": False,
    " transaction:true transaction:false": False,
    " transaction:false transaction:true": True,
    " transaction:FALSE": True,
    " Transaction:false": True,
    " transaction: false": True,
    " transaction :false": True,
    " transaction=false": True,
    " transaction:false,": True,
    " transaction:false:x": True,
    " notransaction:false": True,
    " transaction\xa0:false": True,
    " transaction:true": True,
    "\r-- transaction:false": False,
}


def cases(*tables: dict[str, Any]) -> list[Any]:
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), id=name)
        for table in tables
        for name, case in table.items()
    ]


@pytest.fixture
def folder(tmp_path) -> Path:
    made = tmp_path / "db" / "migrations"
    made.mkdir(parents=True)
    return made


@pytest.fixture
def dsn(database) -> str:
    return database()


def write(folder: Path, text: str, name: str = NAME) -> None:
    (folder / f"{name}.sql").write_bytes(text.encode())


def run_dbmate(folder: Path, dsn: str) -> subprocess.CompletedProcess[str]:
    """The real dbmate, applying everything."""
    role, host = dsn.split("@/")[1].split("?host=")
    url = f"postgres://{role}:{PASSWORD}@/{role}?host={host}&sslmode=disable"
    return subprocess.run(
        [dbmate(), "--migrations-dir", folder, "--no-dump-schema", "migrate"],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"DATABASE_URL": url},
    )


def by_dbmate(folder: Path, dsn: str) -> bool:
    """Whether the real dbmate says that it applied everything."""
    return run_dbmate(folder, dsn).returncode == 0


def by_console(folder: Path, dsn: str) -> bool:
    engine = DbmateEngine(folder)
    (script,) = engine.read_folder().scripts
    # As in a run: what is not committed when the session is closed is lost.
    with closing(psycopg.connect(dsn, autocommit=True)) as connection:
        engine.ensure_history(connection)
        try:
            engine.apply(connection, script, Limits(), lambda *_: None, lambda _: None)
        except ScriptFailed:
            return False
    return True


def effect(dsn: str) -> tuple[list[str], list[str]]:
    """The tables that are there, and the versions that are recorded."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        tables = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
        ).fetchall()
        names = [name for (name,) in tables]
        recorded = (
            connection.execute("SELECT version FROM schema_migrations").fetchall()
            if "schema_migrations" in names
            else []
        )
    return [n for n in names if n != "schema_migrations"], [version for (version,) in recorded]


def start_over(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")


@pytest.mark.needs_dbmate
@pytest.mark.parametrize(("text", "tables"), cases(APPLIED))
def test_what_dbmate_applies_is_applied_alike(folder, dsn, text, tables):
    write(folder, text)
    assert by_dbmate(folder, dsn)
    theirs = effect(dsn)
    start_over(dsn)
    assert by_console(folder, dsn)
    assert effect(dsn) == theirs == (tables, [NAME[:14]])


@pytest.mark.needs_dbmate
@pytest.mark.parametrize("text", cases(BROKEN))
def test_what_the_server_rejects_leaves_nothing(folder, dsn, text):
    write(folder, text)
    assert not by_dbmate(folder, dsn)
    theirs = effect(dsn)
    start_over(dsn)
    assert not by_console(folder, dsn)
    assert effect(dsn) == theirs == ([], [])


@pytest.mark.needs_dbmate
@pytest.mark.parametrize(("text", "said"), cases(REFUSED, HALF))
def test_what_dbmate_rejects_is_refused_with_line_and_remedy_before_anything_runs(
    folder, dsn, text, said
):
    write(folder, text)
    assert not by_dbmate(folder, dsn)
    applied, recorded = effect(dsn)
    half = (text, said) in HALF.values()
    assert (applied, recorded) == ((["a"], [NAME[:14]]) if half else ([], []))
    start_over(dsn)
    reading = DbmateEngine(folder).read_folder()
    assert reading.problems == []
    assert reading.scripts[0].refusal.startswith(said)
    with pytest.raises(AdapterError, match=f"^{NAME}.sql line "):
        by_console(folder, dsn)
    assert effect(dsn) == ([], [])


@pytest.mark.needs_dbmate
@pytest.mark.parametrize(("text", "said"), cases(REFUSED_ON_PURPOSE))
def test_transaction_that_ends_within_the_file_is_refused(folder, dsn, text, said):
    write(folder, text)
    assert by_dbmate(folder, dsn)
    (script,) = DbmateEngine(folder).read_folder().scripts
    assert script.refusal.startswith(said)


@pytest.mark.needs_dbmate
@pytest.mark.parametrize(("options", "in_transaction"), OPTIONS.items())
def test_options_choose_the_transaction_as_dbmate_does(folder, dsn, options, in_transaction):
    # VACUUM tells: it fails in a transaction.
    write(folder, f"{UP}{options}\nVACUUM;\n{DOWN}\n")
    assert by_dbmate(folder, dsn) is not in_transaction
    theirs = effect(dsn)
    start_over(dsn)
    (script,) = DbmateEngine(folder).read_folder().scripts
    assert bool(script.refusal) is in_transaction
    if not in_transaction:
        assert by_console(folder, dsn)
        assert effect(dsn) == theirs


@pytest.mark.needs_dbmate
def test_transaction_that_dbmate_would_lose_is_refused(folder, dsn):
    write(folder, f"{UP} transaction:false\nBEGIN;\n{A}\n{DOWN}\n")
    assert by_dbmate(folder, dsn)
    assert effect(dsn) == ([], [])
    (script,) = DbmateEngine(folder).read_folder().scripts
    assert script.refusal == (
        "line 2 begins a transaction that the section does not end, so dbmate would say that it is "
        "applied and keep nothing of it: end it with COMMIT"
    )


LINES = st.sampled_from(
    [
        UP,
        DOWN,
        f"{UP} transaction:false",
        f"{UP}:",
        f" {UP}",
        "--",
        "-- Migrate:up",
        "migrate:up",
        "-- text",
        "  -- text",
        "",
        " ",
        "\t\f",
        "\v",
        "\xa0",
        "\ufeff",
        "/*",
        "*/",
        "$$",
        "'",
        A,
        B,
    ]
)
TEXTS = st.lists(
    st.tuples(LINES, st.sampled_from(["\n", "\r\n", "\r", ""])).map("".join), max_size=12
).map("".join)


def sections_of(text: str) -> Sections | None:
    try:
        return read_sections(text)
    except AdapterError:
        return None


@given(TEXTS)
@example(f"\ufeff{PLAIN}")
@example(f"{B}\n{PLAIN}")
@example(f"{PLAIN}{PLAIN}")
def test_no_line_is_lost(text):
    """Every line that is neither blank nor a comment is in up, in down, or the file is refused."""
    found = sections_of(text)
    if found is None:
        return
    assert text[found.start :] == found.up + found.down
    lead = text[: found.start].split("\n")
    assert [line for line in lead if line.strip("\t\n\f\r ") and line.lstrip()[:2] != "--"] == []


@given(TEXTS)
def test_no_statement_of_up_is_lost(text):
    """What is run is the up section without its marker, which the server takes for a comment."""
    found = sections_of(text)
    if found is None:
        return
    marker = found.up[: len(found.up) - len(found.up_sql)]
    assert found.up == marker + found.up_sql
    assert marker.startswith("--")
    assert "\n" not in marker
    assert "\r" not in marker
