"""A database that has tables, but no history of migrations: said at the first reading."""

from __future__ import annotations

import pytest
from django.urls import reverse

from migrations_app.assess.baseline import missing_baseline
from migrations_app.engines.dbmate import DbmateEngine
from migrations_app.engines.prisma import PrismaEngine
from migrations_app.services.migrations import current_plan
from opsconsole.environments.models import Application, Target
from opsconsole.environments.readings import BaselineMissing
from opsconsole.exceptions import Refused
from opsconsole.targets.relations import Catalogue, Relation
from tests.conftest import url
from tests.worker import observe_target

INIT = "20250101000000_init"
RESOLVE = f"npx prisma migrate resolve --applied {INIT}"
HAS_USERS = ("public.users", "r")
HAS_HISTORY = ("public._prisma_migrations", "r")


def catalogue(*found: tuple[str, str]) -> Catalogue:
    return Catalogue({name: Relation(name, kind) for name, kind in found})


def asked(engine, folder, *found: tuple[str, str], sql: str) -> BaselineMissing | None:
    script = engine.script_of(INIT, engine.draft_text(sql))
    return missing_baseline(engine(folder), [script], catalogue(*found))


@pytest.mark.fast
@pytest.mark.parametrize(
    ("sql", "is_certain"),
    [
        ("CREATE TABLE users ();", True),
        ("CREATE TYPE kind AS ENUM ('a'); CREATE TABLE public.users ();", True),
        ("SET search_path = ''; SELECT set_config('a.b', '', false); CREATE TABLE public.users ();",
         True),
        ("CREATE TABLE orders ();", False),
        ("CREATE TABLE IF NOT EXISTS users ();", False),
        ("CREATE TEMPORARY TABLE users ();", False),
        ("CREATE TABLE other.users ();", False),
        ("SET search_path = other; CREATE TABLE users ();", False),
        ("DROP TABLE users; CREATE TABLE users ();", False),
        ("ALTER TABLE users RENAME TO former; CREATE TABLE users ();", False),
        ("DO $$ BEGIN DROP TABLE users; END $$; CREATE TABLE users ();", False),
        ("SELECT clear_everything(); CREATE TABLE users ();", False),
    ],
)  # fmt: skip
def test_table_is_said_to_be_there_only_when_its_creation_is_certain_to_fail(
    tmp_path, sql, is_certain
):
    found = asked(DbmateEngine, tmp_path, HAS_USERS, sql=sql)
    assert (found is not None) is is_certain
    assert found is None or (found.table, found.file) == ("public.users", f"{INIT}.sql")


@pytest.mark.fast
@pytest.mark.parametrize(
    ("found", "file"),
    [
        ([HAS_USERS], ""),
        ([HAS_USERS, HAS_HISTORY], None),
        ([("public.report", "v"), ("other.users", "r")], None),
        ([], None),
    ],
)
def test_prisma_takes_no_schema_with_tables_without_its_own(tmp_path, found, file):
    missing = asked(PrismaEngine, tmp_path, *found, sql="CREATE TABLE orders ();")
    assert (missing.file if missing else None) == file


def test_every_page_says_that_a_baseline_is_missing_and_nothing_is_begun(
    as_role, environment, folder, target, settings
):
    settings.STATE_FRESH_SECONDS = 60
    target.execute("DROP TABLE _prisma_migrations")
    observe_target(environment.targets.get())
    with pytest.raises(Refused, match="would create public"):
        current_plan(environment.targets.get())

    client = as_role("admin")
    said = {
        "connection": client.get(reverse("connection-test", args=[environment.pk])),
        "environment": client.get(environment.get_absolute_url()),
        "confirm": client.get(url(environment, "migrate")),
        "board": client.get(environment.application.get_absolute_url()),
        "migration": client.get(url(environment, "migration", INIT)),
    }
    pages = {name: answer.content.decode() for name, answer in said.items()}
    told = {name: RESOLVE in page for name, page in pages.items()}
    assert told == {
        "connection": True, "environment": True, "confirm": True, "board": False,
        "migration": False,
    }  # fmt: skip
    assert "1 pending, not possible now" in pages["environment"]
    assert 'name="plan"' not in pages["confirm"]
    assert "needs a baseline" in pages["board"]
    assert "the database needs a baseline" in pages["migration"]


def test_command_that_is_shown_makes_the_baseline_for_dbmate(environment, folder, target):
    Application.objects.update(engine="dbmate")
    (folder.path / f"{INIT}.sql").write_text(
        DbmateEngine.draft_text((folder.path / INIT / "migration.sql").read_text())
    )
    missing = observe_target(Target.objects.get()).seen.baseline
    assert missing is not None
    target.execute(missing.command)
    state = observe_target(Target.objects.get())
    assert (state.seen.baseline, state.data["refusals"], state.pending) == (None, [], [])
