"""Fixtures: backups and restores requested and executed here."""

from __future__ import annotations

import uuid
from datetime import timedelta
from pathlib import Path

import pytest

from backups_app import services
from backups_app.models import Backup, BackupPolicy, Storage
from backups_app.services import storages
from opsconsole.environments.models import Environment
from opsconsole.environments.secrets import seal
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.models import Run
from tests.s3 import scripted_s3
from tests.worker import execute_run, resolve_lost_run


@pytest.fixture(autouse=True)
def _own_backups_folder(settings, tmp_path) -> None:
    settings.BACKUPS_FOLDER = tmp_path / "backups"
    settings.BACKUPS_SCRATCH = tmp_path / "scratch"


def execute(run: Run) -> Run:
    """Run it in this process; returns it as it ended."""
    execute_run(run.pk, "w")
    run.refresh_from_db()
    return run


def lose(run: Run) -> Run:
    """Lose its worker and have it resolved; returns it as it ended."""
    Run.objects.filter(pk=run.pk).update(
        status=RunStatus.LOST, claim_token=uuid.uuid4(), finished_at=None
    )
    resolve_lost_run(run.pk)
    run.refresh_from_db()
    return run


@pytest.fixture
def run_backup(environment, operator):
    def run(**more) -> Run:
        more = {"actor": operator, "target": environment.targets.get()} | more
        return execute(services.request_backup(idempotency_key=uuid.uuid4().hex, **more))

    return run


@pytest.fixture
def set_quarantine(database):
    """`set_quarantine(environment)` gives it a quarantine of a role of its own; returns its DSN."""

    def set_for(environment: Environment) -> str:
        address: str = database()
        environment.targets.update(quarantine_dsn_encrypted=seal(address))
        return address

    return set_for


@pytest.fixture
def quarantine(environment, set_quarantine) -> str:
    return set_quarantine(environment)


@pytest.fixture
def bucket(admin):
    """A scripted S3 server and its saved storage."""
    with scripted_s3() as s3:
        s3.storage = storages.save_storage(
            actor=admin,
            storage=Storage(name="Bucket", url=s3.url, access_key="key", is_shared=True),
            before={},
            secret="s3-secret-marker",
        )
        yield s3


@pytest.fixture
def backup(run_backup) -> Backup:
    run = run_backup()
    return Backup.objects.get(run=run)


@pytest.fixture
def set_policy(environment):
    """`set_policy(level=3)` saves the environment's policy with these values."""

    def save(copies: tuple[Storage, ...] = (), where: Environment | None = None, **values):
        policy = BackupPolicy.objects.of(where or environment)
        for name, value in values.items():
            setattr(policy, name, value)
        policy.save()
        policy.copies.set(copies)
        return policy

    return save


def restore(actor, backup: Backup, environment: Environment, **more) -> Run:
    more.setdefault("typed_name", environment.slug)
    return execute(
        services.request_restore(
            actor=actor,
            backup=backup,
            target=environment.targets.get(),
            idempotency_key=uuid.uuid4().hex,
            **more,
        )
    )


@pytest.fixture
def old_backups(backup):
    """The real backup, newest of five: 10, 20, 30 and 40 days older ones with files of their own."""

    def older(days: int) -> Backup:
        path = Path(Storage.objects.builtin().address.removeprefix("file://"))
        key = f"{backup.environment.path}/older-{days}.dump.zst"
        for suffix in ("", ".json"):
            (path / (key + suffix)).write_bytes((path / (backup.key + suffix)).read_bytes())
        made = Backup.objects.get(pk=backup.pk)
        made.pk, made.key, made.taken_at = None, key, backup.taken_at - timedelta(days=days)
        made.save()
        made.copies.create(storage=Storage.objects.builtin())
        return made

    return [older(days) for days in (10, 20, 30, 40)]
