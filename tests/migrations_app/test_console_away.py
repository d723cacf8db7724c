"""A run that changes a database while the console's own database comes and goes."""

from __future__ import annotations

import time
import uuid

import pytest
from django.db import connection

from migrations_app.models import ExpectedSchema
from migrations_app.reading.drift import drift_of
from migrations_app.services import doctor
from migrations_app.services.migrations import current_plan, request_migrate
from opsconsole.environments.models import Environment
from opsconsole.events.models import AuditEvent
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.models import Run
from tests.conftest import log_of, superuser
from tests.runs.cutting import cut_once, cutting
from tests.worker import check_drift, execute_run, observe_target

NAME = "20260101000000_change"
LINES = 1000
LOUD = f"""ALTER TABLE users ADD COLUMN email text;
DO $$ BEGIN
  FOR n IN 1..{LINES} LOOP RAISE NOTICE 'line %', n; PERFORM pg_sleep(0.001); END LOOP;
END $$;
"""
HALF = "CREATE INDEX CONCURRENTLY users_name ON users (name);\nCREATE TABLE extra (id nosuch);\n"
# Sessions of a run in the target that keep something from others: a snapshot, locks, the tool's lock.
HOLDING = (
    "SELECT count(*) FROM pg_stat_activity a WHERE datname = %s AND application_name LIKE"
    " 'opsconsole:%%' AND (state LIKE 'idle in transaction%%' OR EXISTS"
    " (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'advisory'))"
)


@pytest.fixture
def asked_while_held(transactional_db, target):
    """What this thread asks the console's database while its run holds something in the target."""
    asked: list[str] = []
    with superuser() as other:

        def is_held() -> bool:
            return other.execute(HOLDING, [target.info.dbname]).fetchone() != (0,)

        def look(execute, sql, params, many, context):
            # A session that was just closed takes a moment to go.
            deadline = time.monotonic() + 1
            while (held := is_held()) and time.monotonic() < deadline:
                time.sleep(0.01)
            if held:
                asked.append(sql)
            return execute(sql, params, many, context)

        with connection.execute_wrapper(look):
            yield asked


def test_nothing_is_asked_while_a_migrate_run_holds_something(migrate, folder, asked_while_held):
    folder.add(NAME, LOUD)
    assert migrate().status == RunStatus.SUCCEEDED
    assert asked_while_held == []


def test_nothing_is_asked_while_the_rest_of_a_migration_is_finished(
    migrate, folder, environment, operator, target, asked_while_held
):
    (folder.path.parents[1] / "package.json").write_text('{"devDependencies": {"prisma": "7.4.0"}}')
    folder.add(NAME, HALF)
    assert migrate().status == RunStatus.FAILED
    target.execute("CREATE TYPE nosuch AS ENUM ('a')")
    fresh = Environment.objects.select_related("application").get(pk=environment.pk)
    observe_target(fresh.targets.get())
    run = doctor.request_resolution(
        actor=operator,
        target=fresh.targets.get(),
        name=NAME,
        mark="finish",
        reason="seen to",
        idempotency_key=uuid.uuid4().hex,
    )
    execute_run(run.pk, "w")
    run.refresh_from_db()
    assert (run.status, asked_while_held) == (RunStatus.SUCCEEDED, [])


@pytest.fixture
def requested(transactional_db, environment, operator, folder) -> Run:
    """A migrate run that prints many lines, and changes the schema."""
    folder.add(NAME, LOUD)
    fresh = Environment.objects.select_related("application").get(pk=environment.pk)
    check_drift(fresh.targets.get())
    observe_target(fresh.targets.get())
    plan, _ = current_plan(fresh.targets.get())
    return request_migrate(
        actor=operator,
        target=fresh.targets.get(),
        plan_hash=plan.hash,
        idempotency_key=uuid.uuid4().hex,
    )


def ends_as_if_nothing_was(run: Run) -> None:
    connection.close()
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED, run.summary
    said = [line for line in log_of(run).splitlines() if "NOTICE" in line]
    assert [line.split()[3] for line in said] == [str(n) for n in range(1, LINES + 1)]
    expected = ExpectedSchema.objects.filter(run=run).count()
    assert (run.backups.count(), expected) == (1, 1)
    assert drift_of(run.target) is None
    actions = AuditEvent.objects.filter(run=run).order_by("pk").values_list("action", flat=True)
    assert list(actions) == ["run.requested", "run.started", "run.ended"]


def test_run_whose_connections_are_cut_again_and_again_ends_by_itself(requested):
    with cutting(0.1):
        execute_run(requested.pk, "w")
    ends_as_if_nothing_was(requested)


def test_what_a_step_wrote_is_there_once_when_only_its_acknowledgement_was_lost(requested):
    written = [
        "backups_app_backup",
        "backups_app_backupcopy",
        "migrations_app_expectedschema",
        "opsconsole_healthresult",
    ]
    with cut_once("INSERT", "after it was committed", *written):
        execute_run(requested.pk, "w")
    ends_as_if_nothing_was(requested)
    phases = requested.health_results.order_by("pk").values_list("phase", flat=True)
    assert list(phases) == ["before", "after", "after", "after"]
