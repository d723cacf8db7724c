"""A whole migrate run of dbmate's files."""

from __future__ import annotations

import pytest

from migrations_app.reading.matrix import read_board
from migrations_app.services.migrations import current_plan
from opsconsole.environments.models import Application, Environment
from opsconsole.exceptions import Refused
from opsconsole.runs.choices import RunStatus
from tests.worker import observe_target

INIT, NAME = "20250101000000_init", "20260101000000_email"


@pytest.fixture(autouse=True)
def _dbmate_files(folder, environment, target) -> None:
    """The application's first migration is in dbmate's folder and its table."""
    Application.objects.update(engine="dbmate")
    text = (folder.path / INIT / "migration.sql").read_text()
    (folder.path / f"{INIT}.sql").write_text(f"-- migrate:up\n{text}\n-- migrate:down\n")
    target.execute("CREATE TABLE schema_migrations (version varchar PRIMARY KEY)")
    target.execute("INSERT INTO schema_migrations VALUES (%s)", [INIT[:14]])


def add(folder, name: str, text: str) -> None:
    (folder.path / f"{name}.sql").write_text(f"-- migrate:up\n{text}\n-- migrate:down\n")


def test_board_knows_from_runs_when_and_how_long(migrate, environment, folder):
    add(folder, NAME, "ALTER TABLE users ADD COLUMN email text;\nSELECT pg_sleep(0.2);\n")
    run = migrate()
    assert run.status == RunStatus.SUCCEEDED, run.summary
    fresh = Environment.objects.select_related("application").get(pk=environment.pk)
    (ours,), (before,) = (row.cells for row in read_board([fresh.targets.get()]).rows)
    assert ours.applied_at is not None
    assert run.started_at < ours.applied_at < run.finished_at
    assert 0.2 <= ours.seconds < 5
    # The tool applied it, and keeps no times.
    assert (before.state, before.applied_at) == ("applied", None)


def test_failed_script_is_pending_again(migrate, folder, target):
    add(folder, NAME, "CREATE TABLE made (id int);\nALTER TABLE nowhere ADD COLUMN x int;\n")
    run = migrate()
    assert run.status == RunStatus.FAILED
    assert 'relation "nowhere" does not exist' in run.summary
    assert target.execute("SELECT to_regclass('made')").fetchone() == (None,)
    assert run.target.latest_state.pending == [NAME]


TWICE = "CREATE TABLE made (id int);\n-- migrate:down\n\n-- migrate:up\nCREATE TABLE lost (id int);"
REFUSAL = (
    f"{NAME}.sql: line 5 begins a second `-- migrate:up` section: dbmate applies the first, records "
    "the file as applied and fails; move the second to a file of its own"
)


def test_file_of_two_sections_is_refused_in_plan_page_and_preflight(
    migrate, environment, folder, target, as_role
):
    add(folder, NAME, "SELECT 1;")

    def replace() -> None:
        add(folder, NAME, TWICE)

    run = migrate(between=replace)
    assert (run.status, run.steps.get(name="preflight").status) == (RunStatus.FAILED, "failed")
    assert REFUSAL in run.summary
    state = observe_target(run.target)
    assert state.data["refusals"] == [REFUSAL]
    (pending,) = [m for m in state.data["migrations"] if m["state"] == "pending"]
    assert pending["risk"] == "high"
    fresh = Environment.objects.select_related("application").get(pk=environment.pk)
    with pytest.raises(Refused, match="begins a second `-- migrate:up` section"):
        current_plan(fresh.targets.get())
    page = as_role("viewer").get(f"{environment.get_absolute_url()}/migrations/{NAME}")
    assert "line 5 begins a second `-- migrate:up` section" in page.content.decode()
    assert target.execute("SELECT to_regclass('made')").fetchone() == (None,)
