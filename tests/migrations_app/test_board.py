"""The board says of every state what the database and the folder say, also where Prisma is silent."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest

from migrations_app.engines.kinds import Limits, ScriptFailed
from migrations_app.engines.prisma import PrismaEngine
from migrations_app.reading.matrix import Cell, read_board
from migrations_app.templatetags.board import board_cell
from opsconsole.environments.migration_status import MigrationStatus
from opsconsole.environments.models import Target
from opsconsole.project.demo import SOURCE
from tests.migrations_app.test_prisma_cli import HERE, run_prisma
from tests.worker import observe_target

FIRST = "20250101000000_init"
SECOND = "20260101000000_second"
UP_TO_DATE = "Database schema is up to date!"
PENDING = "have not yet been applied"
FAILED = "have failed"


@pytest.fixture
def project(environment, folder, target):
    """The environment as a Prisma project that the real CLI can be run in."""
    root = folder.path.parents[1]
    shutil.copy(SOURCE / "prisma" / "schema.prisma", folder.path.parent)
    for name in ("prisma.config.ts", "package.json"):
        shutil.copy(HERE / name, root)
    (root / "node_modules").symlink_to(HERE / "node_modules")
    return SimpleNamespace(
        folder=folder,
        target=target,
        prisma=lambda *words: run_prisma(root, environment.dsn, "migrate", *words),
        apply_last=lambda: apply_last(folder.path, environment.dsn),
    )


def apply_last(folder: Path, dsn: str) -> None:
    """As the CLI would, in a fraction of its time: tests/contracts/engine.py shows them equal."""
    engine = PrismaEngine(folder)
    with psycopg.connect(dsn, autocommit=True) as connection, suppress(ScriptFailed):
        engine.begin_session(connection)
        script = engine.read_folder().scripts[-1]
        engine.apply(connection, script, Limits(), lambda *_: None, lambda _: None)


def pending(project) -> None:
    project.folder.add(SECOND, "CREATE TABLE second (id int);")


def applied(project) -> None:
    pending(project)
    project.apply_last()


def failed(project) -> None:
    project.folder.add(SECOND, "ALTER TABLE nowhere ADD COLUMN x int;")
    project.apply_last()


def running(project) -> None:
    failed(project)
    project.target.execute("SELECT pg_advisory_lock(72707369)")


def edited(project) -> None:
    applied(project)
    (project.folder.path / SECOND / "migration.sql").write_text("CREATE TABLE other (id int);")


def missing_locally(project) -> None:
    applied(project)
    shutil.rmtree(project.folder.path / SECOND)


def out_of_order(project) -> None:
    applied(project)
    project.folder.add("20250601000000_earlier", "CREATE TABLE earlier (id int);")


def by_hand(project) -> None:
    pending(project)
    project.prisma("resolve", "--applied", SECOND)


def rolled_back_and_pending_again(project) -> None:
    failed(project)
    project.prisma("resolve", "--rolled-back", SECOND)


def baseline(project) -> None:
    project.target.execute("DROP TABLE _prisma_migrations")
    project.prisma("resolve", "--applied", FIRST)


def failed_behind_a_pending_one(project) -> None:
    failed(project)
    project.folder.add("20260201000000_third", "CREATE TABLE third (id int);")


@pytest.mark.needs_prisma
@pytest.mark.parametrize(
    ("make", "name", "state", "prisma_says", "is_silent"),
    [
        (applied, SECOND, "applied", UP_TO_DATE, False),
        (pending, SECOND, "pending", PENDING, False),
        (failed, SECOND, "failed", FAILED, False),
        (edited, SECOND, "edited", UP_TO_DATE, True),
        (missing_locally, SECOND, "missing_locally", UP_TO_DATE, True),
        (out_of_order, "20250601000000_earlier", "out_of_order", PENDING, False),
        (by_hand, SECOND, "by_hand", UP_TO_DATE, False),
        (rolled_back_and_pending_again, SECOND, "pending", UP_TO_DATE, True),
        (baseline, FIRST, "baseline", UP_TO_DATE, False),
        (failed_behind_a_pending_one, SECOND, "failed", PENDING, True),
    ],
)
def test_board_and_prisma_s_own_status_say_what_they_are_said_to_say(
    environment, project, make: Callable, name, state, prisma_says, is_silent
):
    make(project)
    status = project.prisma("status")
    observe_target(environment.targets.get())

    board = read_board([environment.targets.get()])
    assert {row.name: row.cells[0].state for row in board.rows}[name] == state
    assert prisma_says in status
    verdict = board.columns[0].reading.tool_verdict
    words = {UP_TO_DATE: UP_TO_DATE, PENDING: "not yet applied", FAILED: "failed"}[prisma_says]
    assert verdict.says.startswith(words)
    assert (name in verdict.is_silent_on) == is_silent


@pytest.mark.needs_prisma
def test_row_that_is_being_applied_is_running_while_the_lock_is_held(environment, project):
    running(project)
    observe_target(environment.targets.get())
    assert read_board([environment.targets.get()]).rows[0].cells[0].state == "running"


def targets(make_environment) -> list[Target]:
    made = [
        make_environment(slug, position=position)
        for position, slug in enumerate(("development", "staging", "production"), 1)
    ]
    for environment in made:
        observe_target(environment.targets.get())
    return [environment.targets.get() for environment in made]


def test_board_filters_by_name_and_state(make_environment, folder):
    folder.add("20260101000000_add_things", "CREATE TABLE things (id int);")
    made = targets(make_environment)
    assert [row.name for row in read_board(made).rows] == ["20260101000000_add_things", FIRST]
    assert [row.name for row in read_board(made, text="THINGS").rows] == [
        "20260101000000_add_things"
    ]
    assert [row.name for row in read_board(made, state="applied").rows] == [FIRST]
    assert read_board(made, state="applied").counts == [
        (MigrationStatus.PENDING, 1),
        (MigrationStatus.APPLIED, 1),
    ]


def test_application_page_asks_as_often_for_one_environment_as_for_three(make_environment, as_role):
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    client, counts = as_role("viewer"), []
    # Their first page also notes where they are signed in.
    client.get("/preferences")
    for position, slug in enumerate(("development", "staging", "production"), 1):
        observe_target(make_environment(slug, position=position).targets.get())
        with CaptureQueriesContext(connection) as asked:
            page = client.get("/applications/shop").content.decode()
        counts.append(len(asked))
    assert len(set(counts)) == 1
    assert page.count('class="cell good"') == 3


def test_name_with_markup_is_shown_and_linked_as_text(environment, folder, as_role):
    name = "20260101000000_<script>alert(1)"
    folder.add(name, "CREATE TABLE x (id int);")
    observe_target(environment.targets.get())
    client = as_role("viewer")
    page = client.get("/applications/shop").content.decode()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    url = "/applications/shop/staging/migrations/20260101000000_%3Cscript%3Ealert%281%29"
    assert url in page
    assert client.get(url).status_code == 200


def test_unknown_application_is_not_found(environment, as_role):
    assert as_role("viewer").get("/applications/nothing").status_code == 404


def test_cell_says_when_it_was_applied_as_other_pages_do_and_how_long_it_took():
    applied_at = datetime(2026, 11, 26, 5, 0, tzinfo=UTC)
    cell = Cell("Staging", MigrationStatus.APPLIED, "/x", applied_at, 0.15)
    assert board_cell(cell).endswith("<small>26 Nov 2026, 05:00, 150 ms</small>")


def test_filter_that_is_none_is_said_by_the_status_of_the_page_too(seen, as_role):
    client = as_role("viewer")
    answers = {query: client.get(f"/applications/shop?{query}") for query in ("state=no", "q=a")}
    assert {query: answer.status_code for query, answer in answers.items()} == {
        "state=no": 422,
        "q=a": 200,
    }
    assert "Select a valid choice" in answers["state=no"].content.decode()
