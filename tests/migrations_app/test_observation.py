"""What is refused, what changed since it was confirmed, and where folders may lie."""

from __future__ import annotations

import pytest
from django.utils import timezone

from migrations_app.reading.observation import observe, plan_changes, plan_for
from migrations_app.services.migrations import checklist_for, current_plan, request_observation
from migrations_app.sources.folders import engine_for
from opsconsole.exceptions import AdapterError, Refused
from opsconsole.targets.dsn import Dsn
from tests.worker import observe_target


def content(*migrations: tuple[str, str], history: tuple = (), database: str = "d") -> dict:
    return {
        "target": ["1", database],
        "history": [list(row) for row in history],
        "migrations": [{"name": n, "checksum": c, "is_atomic": True} for n, c in migrations],
    }


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (content(("a", "1")), content(("a", "1")), []),
        (content(), content(database="other"), ["the database is now other on another server"]),
        (content(("a", "1")), content(), ["a is gone from the folder"]),
        (content(("a", "1")), content(history=(("a", "1"),)), ["a was applied meanwhile"]),
        (content(), content(("b", "2")), ["b was added"]),
        (
            content(("a", "1" * 64)), content(("a", "2" * 64)),
            ["a was changed: sha256 111111111111… when confirmed, 222222222222… now"],
        ),
        (content(history=(("x", "1"),)), content(history=(("x", "2"),)),
         ["the history of applied migrations changed"]),
    ],
)  # fmt: skip
def test_changes_since_the_confirmation_are_named(before, after, expected):
    assert plan_changes(before, after) == expected


def test_same_state_gives_the_same_plan(environment, folder):
    folder.add("20250201000000_add", "SELECT 1;\n")
    state = observe_target(environment.targets.get())
    assert plan_for(environment.targets.get(), state) == plan_for(environment.targets.get(), state)


def test_folder_outside_the_roots_is_refused(environment):
    environment.migrations_folder = "/etc"
    with pytest.raises(AdapterError, match=r"outside the allowed folders.*git.*allow-folder /etc"):
        engine_for(environment, Dsn.parse(environment.dsn))


def test_named_roots_leave_the_folder_of_the_demo_allowed(settings):
    # The tests name a root of their own.
    assert settings.MIGRATIONS_ROOTS[1:] == [settings.OPSCONSOLE_HOME.path / "demo"]


def test_each_trouble_refuses_the_next_migration(environment, folder, target):
    folder.add("20250201000000_failed", "SELECT 1;\n")
    folder.add("20250202000000_edited", "SELECT 2;\n")
    folder.add(
        "20250203000000_rejected", "SELECT 1;\nCREATE INDEX CONCURRENTLY i ON users (name);\n"
    )
    (folder.path / "20250204000000_empty").mkdir()
    target.execute(
        "INSERT INTO _prisma_migrations (id, checksum, migration_name, finished_at) VALUES"
        " ('1', 'x', '20250201000000_failed', NULL), ('2', 'x', '20250202000000_edited', now())"
    )
    refusals = observe_target(environment.targets.get()).data["refusals"]
    assert [text.split(" ")[0].rstrip(":") for text in refusals] == [
        "20250204000000_empty",
        "20250201000000_failed",
        "20250202000000_edited",
        "20250203000000_rejected/migration.sql",
    ]
    with pytest.raises(Refused, match="is unresolved"):
        current_plan(environment.targets.get())


def test_backslash_that_the_server_takes_for_an_escape_refuses(environment, folder, target):
    folder.add("20250201000000_path", "SELECT 1;\n\nSELECT 'C:\\', '; DROP TABLE users; --';\n")
    folder.add("20250202000000_escape", "SELECT E'a\\n', $$\\$$;\n")
    assert observe_target(environment.targets.get()).data["refusals"] == []
    name = target.info.dbname
    target.execute(f'ALTER DATABASE "{name}" SET standard_conforming_strings = off')
    refusals = observe_target(environment.targets.get()).data["refusals"]
    assert [text.partition(",")[0] for text in refusals] == [
        "20250201000000_path/migration.sql: line 3 has a backslash in quotes"
    ]


def test_migration_under_way_elsewhere_refuses(environment, folder, target):
    folder.add("20250201000000_under_way", "SELECT 1;\n")
    target.execute(
        "INSERT INTO _prisma_migrations (id, checksum, migration_name) VALUES"
        " ('1', 'x', '20250201000000_under_way')"
    )
    target.execute("SELECT pg_advisory_lock(72707369)")
    refusals = observe_target(environment.targets.get()).data["refusals"]
    assert refusals == ["20250201000000_under_way is being applied by another session"]


def test_database_never_read_has_no_plan(environment):
    with pytest.raises(Refused, match="has not been read yet"):
        current_plan(environment.targets.get())


def test_reading_now_is_refused_without_a_broker(environment, monkeypatch):
    monkeypatch.setattr("migrations_app.services.migrations.send_short", lambda *_: False)
    with pytest.raises(Refused, match="broker does not answer"):
        request_observation(environment.targets.get())


def test_checklist_knows_what_the_earlier_environment_shows(make_environment, folder):
    first, second = make_environment("staging"), make_environment("production", position=2)
    observe_target(first.targets.get())
    items = {i.key: i for i in checklist_for(second.targets.get(), ["20250101000000_init"])}
    assert items["tested_earlier"].is_known
    assert items["tested_earlier"].url == "/applications/shop/staging"
    assert not items["staging_validated"].is_known
    assert not items["team_notified"].is_known
    items = {i.key: i for i in checklist_for(second.targets.get(), ["20250909000000_new"])}
    assert not items["tested_earlier"].is_known


def test_reading_that_crashes_is_told_as_such(environment, monkeypatch):
    def crash(*_arguments, **_named):
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    monkeypatch.setattr("migrations_app.reading.observation.observe", crash)
    state = observe_target(environment.targets.get())
    assert state.error.startswith("the reading crashed: UnicodeDecodeError: 'utf-8' codec")


@pytest.mark.parametrize("fails", [False, True])
def test_what_was_asked_during_a_reading_is_not_answered_by_it(environment, monkeypatch, fails):
    moments = []

    def read(*arguments, **named):
        moments.append(timezone.now())
        if fails:
            raise AdapterError("connection refused")
        return observe(*arguments, **named)

    monkeypatch.setattr("migrations_app.reading.observation.observe", read)
    state = observe_target(environment.targets.get())
    assert (bool(state.error), state.observed_at < moments[0]) == (fails, True)
