"""A whole migrate run by Prisma's own CLI."""

from __future__ import annotations

import shutil
import threading
import time

import psycopg
import pytest
from django.db import connections

from opsconsole.environments.models import Application
from opsconsole.project.demo import SOURCE
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.models import Run
from tests.conftest import log_of
from tests.migrations_app.test_prisma_cli import HERE, NO_DOWNLOADS

pytestmark = pytest.mark.needs_prisma
NAME = "20260101000000_change"


@pytest.fixture(autouse=True)
def _project_with_prisma(folder, environment, monkeypatch) -> None:
    root = folder.path.parents[1]
    shutil.copy(SOURCE / "prisma" / "schema.prisma", folder.path.parent)
    for name in ("prisma.config.ts", "package.json"):
        shutil.copy(HERE / name, root)
    (root / "node_modules").symlink_to(HERE / "node_modules")
    for name, value in NO_DOWNLOADS.items():
        monkeypatch.setenv(name, value)
    Application.objects.update(engine="prisma-cli")


def test_pending_migrations_are_applied_one_by_one_with_the_cli_in_the_log(migrate, folder):
    folder.add(NAME, "ALTER TABLE users ADD COLUMN email text;\n")
    folder.add("20260102000000_more", "CREATE INDEX users_email ON users (email);\n")
    run = migrate()
    assert run.status == RunStatus.SUCCEEDED, run.summary
    assert run.applied == [NAME, "20260102000000_more"]
    log = log_of(run)
    assert "prisma: 2 migrations found in prisma/migrations" in log
    assert "prisma: 3 migrations found in prisma/migrations" in log
    assert "target-password" not in log


def test_application_that_waits_behind_the_cli_has_it_given_up(migrate, environment, folder):
    environment.blocking_limit_seconds = 1
    environment.save()
    folder.add(NAME, "ALTER TABLE users ADD COLUMN added int;\nSELECT pg_sleep(60);\n")
    took = []

    def read_once_it_is_locked() -> None:
        with psycopg.connect(environment.dsn, autocommit=True) as connection:
            locked = (
                "SELECT 1 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted"
                " AND relation = 'users'::regclass"
            )
            while not connection.execute(locked).fetchone():
                time.sleep(0.05)
            began = time.monotonic()
            connection.execute("SELECT count(*) FROM users")
            took.append(time.monotonic() - began)

    reader = threading.Thread(target=read_once_it_is_locked)
    reader.start()
    run = migrate()
    reader.join()
    assert run.status == RunStatus.FAILED
    assert "this environment lets nobody wait longer than 1 s" in run.summary
    assert took[0] < 20


def test_cancelled_run_leaves_nothing_of_an_atomic_script(migrate, environment, folder, target):
    folder.add(NAME, "CREATE TABLE added (id int);\nSELECT pg_sleep(60);\n")

    def cancel_once_it_sleeps() -> None:
        sleeping = (
            "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%'"
            " AND datname = current_database() AND pid <> pg_backend_pid()"
        )
        while not target.execute(sleeping).fetchone():
            time.sleep(0.05)
        Run.objects.filter(status=RunStatus.RUNNING).update(status=RunStatus.CANCELLING)
        connections.close_all()

    canceller = threading.Thread(target=cancel_once_it_sleeps)
    canceller.start()
    run = migrate()
    canceller.join()
    assert run.status == RunStatus.CANCELLED, run.summary
    assert f"{NAME} was rolled back by PostgreSQL and left nothing." in run.summary
    assert target.execute("SELECT to_regclass('added')").fetchone() == (None,)
    rows = "SELECT rolled_back_at IS NOT NULL FROM _prisma_migrations WHERE migration_name = %s"
    assert target.execute(rows, [NAME]).fetchall() == [(True,)]
