"""What would end the process is not given to the parser; what is merely long is."""

from __future__ import annotations

from pathlib import Path

import pytest
from pglast.parser import ParseError

from migrations_app.engines.statements import split_statements
from opsconsole.targets.parser import parse_sql

ROOT = Path(__file__).resolve().parents[2]
MANY = 60_000


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT " + "1+" * MANY + "1",
        "SELECT " + "1 UNION ALL SELECT " * MANY + "1",
        "SELECT " + "'a'||f(1,2)||" * MANY + "'b'",
        "SELECT 1" + "::int" * MANY,
        "SELECT a" + "[1]" * MANY,
        "SELECT 1" + " IS NULL" * MANY,
        "SELECT now()" + " AT TIME ZONE 'x'" * MANY,
        "SELECT * FROM a" + " JOIN b ON true" * MANY,
        "SELECT " + "(" * MANY + "1" + ")" * MANY,
    ],
)
def test_statement_that_is_nested_too_deeply_is_an_error_and_not_the_end(sql):
    with pytest.raises(ParseError):
        parse_sql(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t VALUES (0)" + ",(-1, 'a-b-c', now() - '1 h')" * 4_000,
        "UPDATE t SET a = 1 + 1;\n" * 4_000,
        "SELECT " + "1+" * 5_000 + "1",
        "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$ " + "x := x + 1; " * MANY + "$$",
    ],
)
def test_text_that_is_only_long_is_read(sql):
    assert parse_sql(sql)


def test_script_with_a_statement_that_is_too_deep_is_split_all_the_same():
    script = f"SELECT 1;\nSELECT {'1+' * MANY}1;\nCREATE TABLE t ();\n"
    assert [(s.line, s.kind) for s in split_statements(script)] == [
        (1, "unparsed"),
        (2, "unparsed"),
        (3, "unparsed"),
    ]


def test_nothing_else_asks_the_parser():
    packages = ("opsconsole", "migrations_app", "backups_app")
    files = [file for each in packages for file in (ROOT / each).rglob("*.py")]
    asking = [file.name for file in files if "pglast.parse_sql" in file.read_text()]
    assert asking == ["parser.py"]
