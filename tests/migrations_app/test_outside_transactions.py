"""Statements that no transaction may hold are known, and rows are sent to no client."""

import pytest

from migrations_app.engines.dbmate import DbmateEngine
from migrations_app.engines.prisma import PrismaEngine


@pytest.mark.parametrize(
    ("sql", "is_atomic"),
    [
        ("REINDEX SCHEMA kept;", False),
        ("REINDEX DATABASE;", False),
        ("REINDEX TABLE kept.t;", True),
        ("CLUSTER;", False),
        ("CLUSTER kept.t USING i;", True),
        ("DISCARD ALL;", False),
        ("DISCARD PLANS;", True),
    ],
)
def test_statement_alone_is_in_a_transaction_only_where_postgresql_allows_it(sql, is_atomic):
    assert PrismaEngine.script_of("1_a", sql).is_atomic is is_atomic
    refusal = DbmateEngine.script_of("1_a", DbmateEngine.draft_text(sql)).refusal
    assert ("cannot run inside a transaction" in refusal) is not is_atomic


def test_copy_to_the_client_is_refused():
    refusal = PrismaEngine.script_of("1_a", "COPY t TO STDOUT;").refusal
    assert refusal == "line 1 sends rows to its client, which takes none: remove it"


@pytest.mark.parametrize(
    ("sql", "is_refused"),
    [
        ("SET client_encoding = 'LATIN1';", True),
        ("SET NAMES 'LATIN1';", True),
        ("SET client_encoding = 'UTF8';", False),
        ("SET standard_conforming_strings = off;", True),
        ("SET standard_conforming_strings = on;", False),
        ("SELECT pg_catalog.set_config( 'Client_Encoding' ,'LATIN1', false);", True),
        (
            "DO $$BEGIN PERFORM set_config('standard_conforming_strings', 'off', false); END$$;",
            True,
        ),
        ("SELECT set_config('client_encoding', 'utf8', false);", False),
        ("SELECT set_config('search_path', '', false);", False),
    ],
)
def test_setting_that_changes_how_the_rest_is_read_is_refused(sql, is_refused):
    refusal = PrismaEngine.script_of("1_a", sql).refusal
    assert ("changes how the rest is read" in refusal) is is_refused
