"""Restores and prunings while the console's own database comes and goes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from django.db import connection
from django.utils import timezone

from backups_app import services
from backups_app.models import Backup, BackupCopy, ReplacedDatabase
from backups_app.models.backup import CopyState
from backups_app.services import policies
from opsconsole.events.models import AuditEvent
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.models import Run
from tests.backups_app.conftest import execute, lose, restore
from tests.conftest import log_of, superuser
from tests.runs.cutting import cut_once, locked

pytestmark = pytest.mark.usefixtures("transactional_db")
ACKNOWLEDGEMENT = "after it was committed"


def undo(replaced: ReplacedDatabase, actor) -> Run:
    return execute(
        services.request_undo(
            actor=actor, replaced=replaced, idempotency_key=uuid.uuid4().hex, typed_name="staging"
        )
    )


def is_open(database: str) -> bool:
    with superuser() as other:
        row = other.execute(
            "SELECT datallowconn FROM pg_database WHERE datname = %s", [database]
        ).fetchone()
    return row[0]


def test_swap_is_recorded_once_and_taken_back_when_acknowledgements_were_lost(
    backup, environment, operator
):
    with cut_once("INSERT", ACKNOWLEDGEMENT, "backups_app_replaceddatabase"):
        run = restore(operator, backup, environment)
    assert run.status == RunStatus.SUCCEEDED, run.summary
    first = ReplacedDatabase.objects.get()
    with cut_once("UPDATE", ACKNOWLEDGEMENT, "backups_app_replaceddatabase"):
        assert undo(first, operator).status == RunStatus.SUCCEEDED
    first.refresh_from_db()
    second = ReplacedDatabase.objects.kept().get()
    assert (first.undone_at is not None, second.undoes) == (True, first)


@pytest.fixture
def replaced(environment, operator, target) -> ReplacedDatabase:
    """A closed database beside the live one, as a swap leaves it."""
    live, name = target.info.dbname, f"{target.info.dbname}__old"
    with superuser() as other:
        other.execute(f'CREATE DATABASE "{name}" OWNER {target.info.user} ALLOW_CONNECTIONS false')
        oids = dict(other.execute("SELECT datname, oid FROM pg_database").fetchall())
    run = services.request_backup(
        actor=operator, target=environment.targets.get(), idempotency_key=uuid.uuid4().hex
    )
    Run.objects.filter(pk=run.pk).update(status=RunStatus.SUCCEEDED)
    return ReplacedDatabase.objects.create(
        target=environment.targets.get(),
        run=run,
        live_name=live,
        replaced_name=name,
        built_name=f"{live}__new",
        old_oid=oids[name],
        new_oid=oids[live],
        swapped_at=timezone.now(),
    )


def test_replaced_database_stays_closed_when_taking_it_back_cannot_be_recorded(replaced, operator):
    with refusing("backups_app_replaceddatabase"):
        run = undo(replaced, operator)
    assert (run.status, "the databases were" in run.summary) == (RunStatus.FAILED, False)
    assert not is_open(replaced.replaced_name)


@contextmanager
def refusing(table: str) -> Iterator[None]:
    """Have the console's database refuse every new row of a table."""
    with superuser(connection.settings_dict["NAME"]) as other:
        other.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'refused'; END $$"
        )
        other.execute(f"CREATE TRIGGER refused BEFORE INSERT ON {table} EXECUTE FUNCTION refuse()")
        try:
            yield
        finally:
            other.execute("DROP FUNCTION refuse CASCADE")


def test_swap_is_not_begun_when_the_lease_ended_while_it_was_recorded(
    backup, environment, operator, target, settings
):
    settings.LEASE_SECONDS, settings.LEASE_RENEW_SECONDS = 2, 0.1
    target.execute("INSERT INTO users (name) VALUES ('later')")
    target.close()

    def slowly(execute, sql, params, many, context):
        if sql.startswith('INSERT INTO "backups_app_replaceddatabase"'):
            with locked("opsconsole_run"):
                time.sleep(2.3)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(slowly):
        run = restore(operator, backup, environment)
    assert run.status == RunStatus.RUNNING
    run = lose(run)
    assert run.status == RunStatus.FAILED, run.summary
    assert "swap: closing" not in log_of(run)
    with psycopg.connect(environment.dsn) as fresh:
        assert fresh.execute("SELECT count(*) FROM users WHERE name = 'later'").fetchone() == (1,)


def test_pruning_tells_and_records_each_backup_once_when_acknowledgements_were_lost(
    old_backups, set_policy, environment
):
    set_policy(keep_days=25, grace_days=7)
    with cut_once("UPDATE", ACKNOWLEDGEMENT, "backups_app_backup"):
        run = execute(requested_pruning(environment))
    assert log_of(run).count(" goes on ") == 2
    assert run.steps.first().summary.startswith("2 marked")
    Backup.objects.exclude(expires_at=None).update(expires_at=timezone.now())
    with cut_once("UPDATE", ACKNOWLEDGEMENT, "backups_app_backup", "backups_app_backupcopy"):
        run = execute(requested_pruning(environment))
    assert (run.status, run.result["deleted"]) == (RunStatus.SUCCEEDED, 2)
    assert log_of(run).count(" is deleted: ") == 2
    assert AuditEvent.objects.filter(action="backup.deleted").count() == 2
    assert BackupCopy.objects.filter(state=CopyState.DELETED).count() == 2


def requested_pruning(environment) -> Run:
    return policies.request_prune(
        actor=None, target=environment.targets.get(), idempotency_key=uuid.uuid4().hex
    )
