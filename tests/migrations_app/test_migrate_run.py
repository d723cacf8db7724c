"""A migrate run from end to end in this process, on a real database with real tools."""

from __future__ import annotations

import uuid

import psycopg
import pytest
from django.urls import reverse

from backups_app.choices import ProofLevel
from backups_app.models import Backup, ReplacedDatabase
from opsconsole.environments.choices import AutoRollback
from opsconsole.events.models import AuditEvent
from opsconsole.runs.choices import RunStatus, StepStatus
from opsconsole.runs.models import Run
from tests.conftest import log_of, superuser
from tests.worker import execute_run

ADD = 'ALTER TABLE "targets" ADD COLUMN "team" boolean NOT NULL DEFAULT false;\n'
INDEX = 'CREATE INDEX CONCURRENTLY "targets_team_idx" ON "targets"("team");\n'
BROKEN = (
    'ALTER TABLE "users" ADD COLUMN "x" int;\n\n'
    'CREATE TABLE "extra" ("id" int);\n'
    'ALTER TABLE "users"\n  ADD COLUMN "y" nosuchtype;\n'
)
HALF = (
    'BEGIN;\nALTER TABLE "users" ADD COLUMN "x" int;\nCOMMIT;\nUPDATE "users" SET "x" = "nope";\n'
)
BREAKS_HEALTH = 'ALTER TABLE "targets" RENAME COLUMN "amount" TO "goal";\n'


def columns(connection: psycopg.Connection, table: str) -> list[str]:
    rows = connection.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_name = %s ORDER BY 1",
        [table],
    )
    return [row[0] for row in rows]


def test_migrate_applies_proves_verifies_and_records(migrate, folder, target):
    folder.add("20250201000000_add_team", ADD)
    folder.add("20250202000000_index_team", INDEX)

    run = migrate(reason="quarter end")

    assert (run.status, run.applied) == (
        RunStatus.SUCCEEDED,
        ["20250201000000_add_team", "20250202000000_index_team"],
    )
    assert [(s.name, s.status) for s in run.steps.all()] == [
        (name, StepStatus.SUCCEEDED)
        for name in ("preflight", "backup", "snapshot", "migrate", "verify", "health")
    ]
    backup = Backup.objects.get(run=run)
    assert (backup.proof, backup.rows) == (ProofLevel.CONTENT, 1201)
    assert columns(target, "targets") == ["amount", "id", "team", "user_id"]
    assert run.result["availability"]["down_ms"] == 0
    actions = AuditEvent.objects.filter(run=run).order_by("id").values_list("action", flat=True)
    assert list(actions) == ["run.requested", "run.started", "run.ended"]
    assert target.execute(
        "SELECT count(*) FROM pg_database WHERE datname LIKE current_database() || '\\_\\_%'"
    ).fetchone() == (0,)


def test_dates_and_letters_mean_what_the_database_takes_them_for(migrate, folder, target):
    for setting in ("DateStyle = 'SQL, DMY'", "client_encoding = 'LATIN1'"):
        target.execute(f"ALTER DATABASE {target.info.dbname} SET {setting}")
    folder.add(
        "20250201000000_dates",
        "CREATE TABLE dates AS SELECT DATE '03/02/2024' AS day, 'é' AS letter,"
        " (TIMESTAMP '2024-02-03 04:05:06')::text AS shown;\n",
    )

    run = migrate()

    assert (run.status, run.summary) == (RunStatus.SUCCEEDED, "Applied: 20250201000000_dates.")
    assert target.execute("SELECT day::text, letter, shown FROM dates").fetchall() == [
        ("2024-02-03", "é", "03/02/2024 04:05:06")
    ]


def test_health_must_stay_good_for_the_whole_settle_time(migrate, folder, environment, settings):
    environment.settle_seconds = 40
    environment.save()
    folder.add("20250201000000_add_team", ADD)

    run = migrate()

    asked = [r.observed_at for r in run.health_results.filter(phase="after")]
    assert (max(asked) - min(asked)).total_seconds() >= 40 * settings.TIME_SCALE
    assert run.steps.get(name="health").summary == "good 3 times over 40 s"


def test_broken_file_leaves_nothing_and_earlier_migrations_stay(migrate, folder, target):
    folder.add("20250201000000_add_team", ADD)
    folder.add("20250202000000_broken", BROKEN)

    run = migrate()

    assert run.status == RunStatus.FAILED
    assert run.applied == ["20250201000000_add_team"]
    failed = run.result["failed_script"]
    assert (failed["file"], failed["line"]) == ("20250202000000_broken/migration.sql", 5)
    assert "42704" in failed["reason"]
    assert run.result["landed"] == []
    assert columns(target, "users") == ["id", "name"]
    assert columns(target, "targets") == ["amount", "id", "team", "user_id"]
    assert not ReplacedDatabase.objects.exists()
    rows = target.execute(
        "SELECT finished_at IS NULL, logs IS NOT NULL FROM _prisma_migrations"
        " WHERE migration_name = '20250202000000_broken'"
    ).fetchall()
    assert rows == [(True, True)]


def test_migration_that_broke_the_application_before_one_that_failed_needs_a_person(
    migrate, folder
):
    folder.add("20250201000000_rename", BREAKS_HEALTH)
    folder.add("20250202000000_broken", BROKEN)

    run = migrate()

    assert run.status == RunStatus.NEEDS_ATTENTION
    assert run.summary.startswith("Health is failing (amounts: 42703 ")
    assert "20250202000000_broken/migration.sql line 5" in run.summary
    assert [way["action"] for way in run.result["ways"]] == ["restore", "keep"]
    assert run.applied == ["20250201000000_rename"]
    assert run.health_results.filter(phase="after", is_healthy=False).exists()


def test_non_atomic_file_names_exactly_the_statements_that_landed(migrate, folder, target):
    folder.add("20250201000000_half", HALF)

    run = migrate()

    assert run.status == RunStatus.FAILED
    assert [item["line"] for item in run.result["landed"]] == [1, 2, 3]
    assert columns(target, "users") == ["id", "name", "x"]


def test_broken_health_without_other_writers_swaps_the_backup_in(migrate, folder, environment):
    folder.add("20250201000000_rename", BREAKS_HEALTH)

    run = migrate()

    assert run.status == RunStatus.ROLLED_BACK, run.summary
    replaced = ReplacedDatabase.objects.get(run=run)
    with psycopg.connect(environment.dsn) as connection:
        assert columns(connection, "targets") == ["amount", "id", "user_id"]
        row = connection.execute(
            "SELECT datallowconn FROM pg_database WHERE datname = %s", [replaced.replaced_name]
        ).fetchone()
    assert row == (False,)
    assert 0 < run.result["availability"]["down_ms"] < 1000
    assert [s.name for s in run.steps.all()][-2:] == ["rollback", "health"]


def write_later(environment):
    """A write by somebody else between the backup and the end of the run, as health is asked."""
    with psycopg.connect(environment.dsn, autocommit=True) as connection:
        connection.execute("INSERT INTO users (name) VALUES ('later')")
        connection.execute("SELECT pg_stat_force_next_flush()")


@pytest.fixture
def writes_before_verify(monkeypatch, environment):
    from migrations_app.runs.steps import Verify

    original = Verify.run

    def run(self, context):
        write_later(environment)
        return original(self, context)

    monkeypatch.setattr(Verify, "run", run)


@pytest.mark.usefixtures("writes_before_verify")
def test_broken_health_with_other_writers_asks_a_person(migrate, folder, environment, operator):
    from backups_app.services import choose_way_back

    folder.add("20250201000000_rename", BREAKS_HEALTH)

    run = migrate()

    assert run.status == RunStatus.NEEDS_ATTENTION, run.summary
    assert run.result["writes_since_backup"] == 1
    assert [way["action"] for way in run.result["ways"]] == ["restore", "keep"]

    way_back = choose_way_back(actor=operator, run=run, reason="bad", idempotency_key="k" * 32)
    execute_run(way_back.pk, "test-worker")
    way_back.refresh_from_db()
    run.refresh_from_db()
    assert (way_back.status, run.status) == (RunStatus.SUCCEEDED, RunStatus.ROLLED_BACK)
    replaced = ReplacedDatabase.objects.get(run=way_back).replaced_name
    with psycopg.connect(environment.dsn, autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM users").fetchone() == (200,)
        connection.execute(f'ALTER DATABASE "{replaced}" ALLOW_CONNECTIONS true')
    with psycopg.connect(environment.dsn, dbname=replaced) as connection:
        assert connection.execute("SELECT count(*) FROM users").fetchone() == (201,)


def test_way_back_that_would_leave_something_behind_asks_a_person(
    migrate, folder, environment, operator, as_role
):
    name = psycopg.conninfo.conninfo_to_dict(environment.dsn)["dbname"]
    with superuser(name) as connection:
        connection.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    # What the migration itself has made is no loss.
    statistics = "CREATE STATISTICS made ON id, user_id FROM targets;"
    folder.add("20250201000000_rename", BREAKS_HEALTH + statistics)

    run = migrate()

    assert run.status == RunStatus.NEEDS_ATTENTION, run.summary
    said = "publication everything would be missing: must be superuser"
    assert said in run.summary
    assert f"preflight: {said}" in log_of(run)
    assert run.result["left_behind"] == ["publication everything"]
    assert [way["action"] for way in run.result["ways"]] == ["restore", "keep"]

    client, way = as_role("operator"), reverse("run-way-back", args=[run.pk])
    assert (
        'name="consents" value="publication everything"' in client.get(run.get_absolute_url()).text
    )
    asked = {"reason": "bad", "key": uuid.uuid4().hex, "consents": "publication everything"}
    assert client.post(way, asked).status_code == 302
    way_back = Run.objects.latest("pk")
    execute_run(way_back.pk, "test-worker")
    way_back.refresh_from_db()
    run.refresh_from_db()
    assert (way_back.status, run.status) == (RunStatus.SUCCEEDED, RunStatus.ROLLED_BACK)


@pytest.mark.usefixtures("writes_before_verify")
def test_policy_always_swaps_back_even_when_others_wrote(migrate, folder, environment):
    environment.auto_rollback = AutoRollback.ALWAYS
    environment.save()
    folder.add("20250201000000_rename", BREAKS_HEALTH)

    assert migrate().status == RunStatus.ROLLED_BACK


def test_one_byte_changed_after_confirmation_is_refused(migrate, folder, target):
    file = folder.add("20250201000000_add_team", ADD)

    run = migrate(between=lambda: file.write_text(ADD.replace("false", "true")))

    assert run.status == RunStatus.FAILED
    assert "20250201000000_add_team was changed: sha256" in run.summary
    assert columns(target, "targets") == ["amount", "id", "user_id"]


def test_mark_rolled_back_then_migrate_again_succeeds(migrate, folder, environment, operator):
    from migrations_app.services.doctor import request_resolution
    from tests.worker import execute_run

    file = folder.add("20250202000000_broken", BROKEN)
    assert migrate().status == RunStatus.FAILED
    made = request_resolution(
        actor=operator,
        target=environment.targets.get(),
        name="20250202000000_broken",
        mark="rolled_back",
        reason="mended",
        idempotency_key="r" * 32,
    )
    execute_run(made.pk, "test-worker")
    made.refresh_from_db()
    assert made.status == RunStatus.SUCCEEDED
    file.write_text(ADD)

    assert migrate().status == RunStatus.SUCCEEDED


def test_lock_held_by_the_application_is_given_up_and_retried(migrate, folder, environment):
    import threading

    folder.add("20250201000000_add_team", ADD)
    blocker = psycopg.connect(environment.dsn)
    blocker.execute("LOCK TABLE targets IN ACCESS SHARE MODE")
    from migrations_app.runs.steps import Migrate

    original = Migrate.run

    def run_with_release(self, context):
        threading.Timer(1.0, blocker.rollback).start()
        return original(self, context)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Migrate, "run", run_with_release)
        run = migrate()
    blocker.close()

    assert run.status == RunStatus.SUCCEEDED
    assert "a lock was not free" in log_of(run)


def test_first_migration_of_an_empty_database_makes_the_history_too(
    migrate, folder, environment, target
):
    target.execute("DROP TABLE _prisma_migrations, targets, users")

    run = migrate()

    assert run.applied == ["20250101000000_init"], run.summary
    assert target.execute("SELECT count(*) FROM _prisma_migrations").fetchone() == (1,)
