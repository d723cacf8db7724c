"""How far a script came, read from a real catalogue."""

from __future__ import annotations

import psycopg
import pytest

from migrations_app.engines.evidence import Evidence, Trace, read_evidence
from migrations_app.engines.statements import split_statements

BEFORE = """
CREATE TABLE old (id int PRIMARY KEY, gone int, n int, CONSTRAINT positive CHECK (n > 0));
CREATE TYPE mood AS ENUM ('sad');
CREATE INDEX old_n ON old (n);
ALTER TABLE old ADD CONSTRAINT later CHECK (n < 100) NOT VALID;
"""
STATEMENTS = """
CREATE TABLE made (id int);
CREATE TABLE filled AS SELECT 1 AS n;
CREATE SEQUENCE numbers;
CREATE VIEW seen AS SELECT 1 AS n;
CREATE INDEX found ON old (id);
CREATE INDEX CONCURRENTLY apart ON old (gone);
CREATE TYPE size AS ENUM ('s');
CREATE TYPE pair AS (a int, b int);
CREATE DOMAIN amount AS int CHECK (VALUE > 0);
CREATE SCHEMA "odd.name";
CREATE TABLE "odd.name"."a""b" (id int);
ALTER TYPE mood ADD VALUE 'glad';
ALTER TABLE old ADD COLUMN more int, ADD COLUMN "Most" int;
ALTER TABLE old ADD CONSTRAINT small CHECK (n < 10);
ALTER TABLE old VALIDATE CONSTRAINT later;
ALTER TABLE old ALTER COLUMN n SET NOT NULL;
ALTER TABLE old ALTER COLUMN n DROP NOT NULL;
ALTER TABLE old DROP CONSTRAINT positive;
DROP INDEX old_n;
ALTER TABLE old DROP COLUMN gone;
ALTER TABLE made RENAME TO made2;
ALTER TABLE old RENAME COLUMN more TO rather;
ALTER TABLE old RENAME CONSTRAINT small TO smaller;
DROP VIEW seen;
DROP SCHEMA "odd.name" CASCADE;
CREATE TRIGGER kept BEFORE UPDATE ON old FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
"""


@pytest.fixture
def connection(database):
    with psycopg.connect(database(), autocommit=True) as open_one:
        open_one.execute(BEFORE)
        yield open_one


def test_each_statement_is_seen_missing_before_it_and_landed_after_it(connection):
    for statement in split_statements(STATEMENTS):
        (before,) = read_evidence(connection, (statement,)).traces
        connection.execute(statement.text)
        (after,) = read_evidence(connection, (statement,)).traces
        assert (before.landed, after.landed) == (False, True), statement.text


@pytest.mark.parametrize("count", range(4))
def test_number_of_landed_statements_is_how_many_were_run(connection, count):
    statements = split_statements(
        "CREATE TABLE a (id int);\nCREATE INDEX a_id ON a (id);\nALTER TABLE a ADD COLUMN n int;"
    )
    for statement in statements[:count]:
        connection.execute(statement.text)
    assert read_evidence(connection, statements).landed == count


def test_invalid_index_has_not_landed(connection):
    connection.execute("INSERT INTO old (id, n) VALUES (1, 1), (2, 1)")
    statements = split_statements("CREATE UNIQUE INDEX CONCURRENTLY once ON old (n);")
    with pytest.raises(psycopg.errors.UniqueViolation):
        connection.execute(statements[0].text)
    (trace,) = read_evidence(connection, statements).traces
    assert (trace.landed, trace.shown) == (False, "index public.once is not there")


def test_change_of_rows_leaves_no_trace(connection):
    (trace,) = read_evidence(connection, split_statements("UPDATE old SET n = 1;")).traces
    assert (trace.landed, trace.shown) == (None, "leaves no trace in the catalogue")


def test_unqualified_names_are_looked_up_in_the_schema_of_the_engine(connection):
    connection.execute("CREATE SCHEMA app; CREATE TABLE app.a (id int)")
    statements = split_statements("CREATE TABLE a (id int);")
    assert read_evidence(connection, statements, "app").landed == 1
    assert read_evidence(connection, statements).landed == 0


@pytest.mark.parametrize(
    ("seen", "landed", "fits"),
    [
        ([True, None, None], 2, True),
        ([True, None, True], 2, False),
        ([True, False, None], 2, False),
        ([None, None], 0, True),
        ([None, None], 2, True),
    ],
)
def test_extent_known_otherwise_fits_unless_the_catalogue_contradicts_it(seen, landed, fits):
    assert Evidence([Trace(1, "", each, "") for each in seen]).fits(landed) is fits


@pytest.mark.parametrize(
    ("seen", "landed"),
    [
        ([], 0),
        ([None], None),
        ([True, None], None),
        ([True, None, False], None),
        ([None, True, False], 2),
        ([False, True], None),
        ([False, None], 0),
        ([None, False], None),
        ([True, True], 2),
    ],
)
def test_extent_is_known_only_between_a_landed_and_a_missing_neighbour(seen, landed):
    assert Evidence([Trace(1, "", each, "") for each in seen]).landed == landed
