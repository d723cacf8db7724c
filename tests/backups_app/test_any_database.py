"""Migrated, backed up, proven, restored and taken back, whatever the database is like."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import psycopg
import pytest

from backups_app.models import Backup, ReplacedDatabase
from opsconsole.embedded.postgres import set_role
from opsconsole.environments.models import Environment
from opsconsole.environments.secrets import seal
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.models import Run
from opsconsole.targets.content import read_tables
from opsconsole.targets.dsn import Dsn
from tests.backups_app.conftest import restore
from tests.backups_app.test_restores import undo
from tests.conftest import apply_first
from tests.servers import postgres_15

pytestmark = [pytest.mark.usefixtures("transactional_db"), pytest.mark.needs_postgres15]


@pytest.fixture(scope="module")
def server_15() -> Iterator[str]:
    """A server on which only superusers may connect to `postgres`."""
    with postgres_15() as server:
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            connection.execute("REVOKE CONNECT ON DATABASE postgres FROM PUBLIC")
            connection.execute("CREATE DATABASE defaultdb")
        yield server.dsn


@pytest.fixture
def on_15(environment, folder, server_15) -> Environment:
    """The environment, its database on that server, one of its two migrations applied."""
    name = f"t{uuid.uuid4().hex[:8]}"
    with psycopg.connect(server_15, autocommit=True) as connection:
        set_role(connection, name, "pw", "LOGIN CREATEDB")
        connection.execute(f"CREATE DATABASE {name} OWNER {name}")
    environment.dsn = server_15.replace("postgres@", f"{name}:pw@").replace("/postgres", f"/{name}")
    environment.targets.update(
        dsn_encrypted=seal(f"{environment.dsn}?maintenance_database=defaultdb")
    )
    apply_first(environment, folder)
    folder.add("20250102000000_more", "ALTER TABLE users ADD COLUMN note text DEFAULT 'none'")
    return environment


def succeeded(run: Run) -> Run:
    assert run.status == RunStatus.SUCCEEDED, run.summary
    return run


@pytest.mark.parametrize(
    ("made", "remedy"),
    [
        ("ALTER DATABASE {0} SET default_transaction_read_only = on", "RESET default_transaction"),
        ("ALTER ROLE {0} CONNECTION LIMIT 5", "CONNECTION LIMIT 6"),
        ("ALTER DATABASE {0} OWNER TO postgres", "OWNER TO"),
    ],
)
def test_migration_is_refused_before_anything_is_dumped(on_15, server_15, migrate, made, remedy):
    with psycopg.connect(server_15, autocommit=True) as connection:
        connection.execute(made.format(Dsn.parse(on_15.dsn).database))
    run = migrate()
    assert (run.status, remedy in run.summary) == (RunStatus.FAILED, True), run.summary
    assert not Backup.objects.exists()


def test_role_that_owns_nothing_is_backed_up_and_the_proof_is_its_own(on_15, server_15, run_backup):
    name = Dsn.parse(on_15.dsn).database
    with psycopg.connect(server_15, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} OWNER TO postgres")
    succeeded(run_backup())


def there_and_back(environment, operator, migrate) -> None:
    """Migrate, with a proven backup, restore that, and take it back."""
    backup = Backup.objects.get(run=succeeded(migrate()))
    with psycopg.connect(environment.dsn) as connection:
        migrated = read_tables(connection)
    run = succeeded(restore(operator, backup, environment))
    with psycopg.connect(environment.dsn) as connection:
        assert read_tables(connection) == backup.manifest["content"]["tables"]
    succeeded(undo(ReplacedDatabase.objects.get(run=run), operator))
    with psycopg.connect(environment.dsn) as connection:
        assert read_tables(connection) == migrated


def test_server_without_a_usable_database_postgres(on_15, operator, migrate):
    there_and_back(on_15, operator, migrate)
