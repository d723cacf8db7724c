"""The log of schema changes that a target may keep: what it notes, and what drift says from it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from migrations_app.models import SchemaReading
from migrations_app.reading.drift import concerns, drift_of
from migrations_app.services import drift as services
from opsconsole.runs.choices import RunStatus
from opsconsole.targets import ddl_log
from opsconsole.targets.schema import read_schema
from tests.conftest import superuser
from tests.worker import check_drift, observe_target

LOGGED = "SELECT command, object FROM opsconsole_log.changes ORDER BY at"


@pytest.fixture
def dba(target):
    """A superuser's session in the environment's database."""
    with superuser(target.info.dbname) as connection:
        yield connection


@pytest.fixture
def logged(environment, target, dba):
    """The environment, whose database keeps a log."""
    dba.execute(ddl_log.install_sql(target.info.user))
    check_drift(environment.targets.get())
    return environment


def by_hand(environment, *statements: str, name: str = "psql") -> None:
    with psycopg.connect(environment.dsn, autocommit=True, application_name=name) as connection:
        for statement in statements:
            connection.execute(statement)


def shown(environment) -> list[tuple[str, ...]]:
    """(role, client, application, command, object) of the log that the drift shows."""
    found = drift_of(environment.targets.get())
    keys = ("role", "client", "application", "command", "object")
    return [tuple(entry[key] for key in keys) for entry in found.log] if found else []


def test_drift_says_who_did_it_when_from_where_and_with_what(logged, target):
    by_hand(logged, "ALTER TABLE users ADD COLUMN phone text")
    check_drift(logged.targets.get())
    role = target.info.user
    assert shown(logged) == [(role, "local", "psql", "ALTER TABLE", "public.users")]
    at = datetime.fromisoformat(drift_of(logged.targets.get()).log[0]["at"])
    assert abs(at - datetime.now(UTC)) < timedelta(minutes=1)


def test_entries_stay_while_the_drift_does_and_new_ones_are_added_once(logged):
    by_hand(logged, "ALTER TABLE users ADD COLUMN phone text")
    for _time in range(3):
        check_drift(logged.targets.get())
    by_hand(logged, "ALTER TABLE users ADD COLUMN fax text", name="pgAdmin")
    SchemaReading.objects.update(last_read_at=datetime.now(UTC) - timedelta(seconds=5))
    check_drift(logged.targets.get())
    assert [entry[2] for entry in shown(logged)] == ["pgAdmin", "psql"]


def test_what_was_settled_before_is_not_told_of_later_drift(logged, operator):
    by_hand(logged, "ALTER TABLE users ADD COLUMN phone text", name="before")
    check_drift(logged.targets.get())
    services.acknowledge(
        actor=operator,
        target=logged.targets.get(),
        schema=drift_of(logged.targets.get()).reading.schema_id,
        reason="known",
    )
    check_drift(logged.targets.get())
    SchemaReading.objects.update(last_read_at=datetime.now(UTC))
    past = "UPDATE opsconsole_log.changes SET at = at - interval '1 hour'"
    with superuser(psycopg.conninfo.conninfo_to_dict(logged.dsn)["dbname"]) as connection:
        connection.execute(past)
    by_hand(logged, "ALTER TABLE users ADD COLUMN fax text", name="after")
    check_drift(logged.targets.get())
    assert [entry[2] for entry in shown(logged)] == ["after"]


def test_runs_of_the_console_are_not_in_it(logged, migrate, folder):
    by_hand(logged, "ALTER TABLE users ADD COLUMN phone text")
    folder.add("20260101000000_email", "ALTER TABLE users ADD COLUMN email text;\n")
    run = migrate()
    assert run.status == RunStatus.SUCCEEDED, run.summary
    check_drift(logged.targets.get())
    assert [entry[2] for entry in shown(logged)] == ["psql"]


def test_changes_of_other_objects_are_not_told(logged):
    by_hand(
        logged,
        "CREATE TABLE passing (id int)",
        "DROP TABLE passing",
        "ALTER TABLE targets ADD COLUMN note text",
    )
    check_drift(logged.targets.get())
    assert [entry[4] for entry in shown(logged)] == ["public.targets"]


def test_log_notes_changes_and_drops_and_nothing_that_is_no_change(logged, target, dba):
    dba.execute("DELETE FROM opsconsole_log.changes")
    by_hand(
        logged,
        "CREATE TEMP TABLE mine (id int)",
        "DROP TABLE mine",
        "GRANT SELECT ON users TO PUBLIC",
        "COMMENT ON TABLE users IS 'x'",
        "CREATE INDEX CONCURRENTLY names ON users (name)",
        "DROP INDEX names",
        "ALTER TABLE users DROP COLUMN name",
    )
    assert dba.execute(LOGGED).fetchall() == [
        ("CREATE INDEX", "public.names"), ("DROP INDEX", "public.names"),
        ("ALTER TABLE", "public.users.name"), ("ALTER TABLE", "public.users"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "harm",
    [
        "BEGIN; LOCK TABLE opsconsole_log.changes",
        "DROP TABLE opsconsole_log.changes",
        "ALTER TABLE opsconsole_log.changes ADD CHECK (false) NOT VALID",
    ],
    ids=["locked", "gone", "full"],
)
def test_broken_log_refuses_no_change(logged, target, dba, harm):
    dba.execute(harm)
    by_hand(logged, "CREATE TABLE made (id int)", "DROP TABLE targets")
    names = "SELECT to_regclass('made')::text, to_regclass('targets')::text"
    assert target.execute(names).fetchone() == ("made", None)


@pytest.mark.parametrize(
    "statement",
    ["INSERT INTO opsconsole_log.changes DEFAULT VALUES", "DELETE FROM opsconsole_log.changes",
     "DROP EVENT TRIGGER opsconsole_log_changed", "DROP SCHEMA opsconsole_log CASCADE",
     "SELECT opsconsole_log.note('x', 'y')", "CREATE TABLE opsconsole_log.x (id int)",
     "CREATE OR REPLACE FUNCTION opsconsole_log.changed() RETURNS event_trigger LANGUAGE plpgsql"
     " AS 'BEGIN END'"],
)  # fmt: skip
def test_role_of_the_console_can_neither_forge_nor_remove_it(logged, target, statement):
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        target.execute(statement)


def test_log_is_no_part_of_the_schema_and_any_other_event_trigger_is(logged, dba):
    before = read_schema(dba)
    assert [name for name in before if "opsconsole_log" in name] == []
    dba.execute(
        "CREATE FUNCTION guard() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';"
        "CREATE EVENT TRIGGER guard ON sql_drop WHEN TAG IN ('DROP TABLE')"
        " EXECUTE FUNCTION guard()"
    )
    after = read_schema(dba)
    assert {name: after[name] for name in after.keys() - before.keys() if "trigger" in name} == {
        "event trigger guard": "ON sql_drop WHEN TAG IN (DROP TABLE) EXECUTE FUNCTION public.guard()"
    }


def test_script_may_run_twice_and_refuses_a_schema_of_another_role(logged, target, dba):
    dba.execute(ddl_log.install_sql(target.info.user))
    assert dba.execute(LOGGED).fetchall() == []
    dba.execute("DROP SCHEMA opsconsole_log CASCADE")
    assert dba.execute("SELECT evtname FROM pg_event_trigger").fetchall() == []
    target.execute("CREATE SCHEMA opsconsole_log")
    with pytest.raises(psycopg.errors.RaiseException, match="belongs to another role"):
        dba.execute(ddl_log.install_sql(target.info.user))


@pytest.mark.parametrize(
    "harm",
    [
        "DROP SCHEMA opsconsole_log CASCADE",
        "ALTER EVENT TRIGGER opsconsole_log_changed DISABLE",
        "REVOKE USAGE ON SCHEMA opsconsole_log FROM {role}",
        "REVOKE SELECT ON opsconsole_log.changes FROM {role}",
    ],
)
def test_log_that_is_gone_or_closed_is_none(logged, target, dba, harm):
    dba.execute(harm.format(role=target.info.user))
    assert ddl_log.read_changes(target, 60) is None
    assert check_drift(logged.targets.get()).has_log is False


@pytest.mark.parametrize(
    ("object_", "name", "does"),
    [
        ("public.users", "column public.users.phone", True),
        ("public.users.phone", "column public.users.phone", True),
        ("public.users", "index public.users_phone on public.users", True),
        ("public.users_phone", "index public.users_phone on public.users", True),
        ("public.user", "table public.users", False),
        ("public.users", "table public.users2", False),
        ("public.f(integer)", "function public.f(n integer)", True),
        ('public."My table"', 'table public."My table"', True),
        ("audit", "schema audit", True),
        ("users", "table public.users", False),
    ],
)
def test_object_of_the_log_concerns_what_it_is_or_holds(object_, name, does):
    assert concerns(object_, name) is does


class TestPages:
    def test_who_and_when_are_on_the_page(self, logged, as_role):
        by_hand(logged, "ALTER TABLE users ADD COLUMN phone text", name="<b>psql</b>")
        check_drift(logged.targets.get())
        page = as_role("viewer").get("/applications/shop/staging").content.decode()
        assert "What the log of schema changes says of these objects" in page
        assert "ALTER TABLE public.users" in page
        assert "&lt;b&gt;psql&lt;/b&gt;" in page

    def test_log_that_knows_nothing_says_so(self, environment, target, dba, as_role):
        check_drift(environment.targets.get())
        target.execute("ALTER TABLE users ADD COLUMN phone text")
        dba.execute(ddl_log.install_sql(target.info.user))
        check_drift(environment.targets.get())
        page = as_role("viewer").get("/applications/shop/staging").content.decode()
        assert "says nothing of these objects" in page

    def test_script_is_offered_for_the_role_of_the_target(self, environment, target, as_role, dba):
        client = as_role("viewer")
        assert client.get("/applications/shop/staging/drift/log.sql").status_code == 409
        observe_target(environment.targets.get())
        check_drift(environment.targets.get())
        page = client.get("/applications/shop/staging").content.decode()
        assert "This database keeps no log of who changes its schema" in page
        dba.execute(client.get("/applications/shop/staging/drift/log.sql").content)
        assert check_drift(environment.targets.get()).has_log is True
        assert "keeps no log" not in client.get("/applications/shop/staging").content.decode()
