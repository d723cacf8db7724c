"""Backups proven on another server than the one they were taken from."""

from __future__ import annotations

import uuid

import psycopg
import pytest
from django.urls import reverse

from backups_app import services
from backups_app.choices import ProofLevel
from backups_app.models import Backup
from backups_app.runs import building
from opsconsole.environments.secrets import seal
from opsconsole.events.models import AuditEvent
from opsconsole.runs.choices import RunStatus
from tests.backups_app.conftest import lose
from tests.conftest import log_of, superuser
from tests.worker import resolve_scratch_dsn

pytestmark = pytest.mark.usefixtures("transactional_db")


@pytest.fixture
def scratch(environment, database) -> str:
    """Another role's address; only its own rights count there."""
    address = database()
    environment.targets.update(scratch_dsn_encrypted=seal(address))
    return address


def test_role_that_may_not_create_databases_has_its_backups_proven_elsewhere(
    scratch, environment, run_backup
):
    own, other = (
        psycopg.conninfo.conninfo_to_dict(address) for address in (environment.dsn, scratch)
    )
    with superuser() as connection:
        connection.execute(f'ALTER ROLE "{own["user"]}" NOCREATEDB')
    run = run_backup()
    assert run.status == RunStatus.SUCCEEDED, run.summary
    assert Backup.objects.get().proof == ProofLevel.CONTENT
    assert f"scratch database on {other['user']}@" in log_of(run)
    assert other["password"] not in log_of(run)


def test_scratch_server_that_does_not_answer_stops_a_backup_before_it_is_taken(
    environment, run_backup
):
    environment.targets.update(
        scratch_dsn_encrypted=seal("postgresql://x:s3cret@127.0.0.1:1/postgres")
    )
    run = run_backup()
    assert run.status == RunStatus.FAILED
    assert "the scratch server x@127.0.0.1:1/postgres" in run.summary
    assert "s3cret" not in run.summary
    assert "cleaning up" not in log_of(run)
    assert not Backup.objects.exists()


def test_lost_run_leaves_nothing_on_the_scratch_server(scratch, environment, operator):
    run = services.request_backup(
        actor=operator, target=environment.targets.get(), idempotency_key=uuid.uuid4().hex
    )
    database = psycopg.conninfo.conninfo_to_dict(environment.dsn)["dbname"]
    with psycopg.connect(scratch, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{building.proof_name(database, run.pk)}"')
        assert lose(run).status == RunStatus.FAILED
        left = connection.execute("SELECT 1 FROM pg_database WHERE datname LIKE '%\\_\\_proof%'")
        assert left.fetchall() == []


def test_scratch_server_is_set_and_unset_in_the_browser_and_never_shown(
    environment, as_role, monkeypatch
):
    client = as_role("admin")
    monkeypatch.setenv("SCRATCH_URL", "postgresql://u:p@127.0.0.9/postgres")
    path = reverse("environment-edit", args=[environment.application_id, environment.pk])
    form = client.get(path).context["form"]
    values = {name: value for name, value in form.initial.items() if value not in (None, False)}

    assert client.post(path, values | {"scratch_address": "nonsense"}).status_code == 422
    assert client.post(path, values | {"scratch_address": "env:SCRATCH_URL"}).status_code == 302
    environment.targets.get().refresh_from_db()
    assert resolve_scratch_dsn(environment.targets.get()).host == "127.0.0.9"
    changed = AuditEvent.objects.filter(action="environment.changed").latest("pk")
    assert changed.details["scratch_address_changed"] is True
    assert "SCRATCH_URL" not in str(changed.details)
    assert "SCRATCH_URL" not in client.get(path).text

    assert client.post(path, values | {"drops_scratch_address": "on"}).status_code == 302
    environment.targets.get().refresh_from_db()
    assert environment.targets.get().scratch_dsn_encrypted == ""
