"""An archive made elsewhere runs code: where it is restored first, and what it cannot touch."""

from __future__ import annotations

import subprocess
import uuid

import psycopg
import pytest
from django.urls import reverse
from psycopg.conninfo import conninfo_to_dict

from backups_app import services
from backups_app.choices import ProofLevel
from backups_app.models import Backup
from backups_app.runs import building
from opsconsole.environments.secrets import seal
from opsconsole.exceptions import Kind, Refused
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.models import Run
from opsconsole.targets.reach import Reach, problems_of
from opsconsole.targets.tools import choose_tools, find_tools
from tests.backups_app.conftest import execute, lose, restore
from tests.conftest import log_of, superuser

pytestmark = pytest.mark.usefixtures("transactional_db")

# A view over a function: restoring refreshes it, and so runs the function.
TRAP = """
CREATE FUNCTION spring() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
  BEGIN
    EXECUTE 'ALTER DATABASE "{live}" SET work_mem = ''77MB''';
  EXCEPTION WHEN insufficient_privilege THEN NULL; END;
  PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = '{live}' AND usename = current_user;
  RETURN 1;
END $$;
CREATE MATERIALIZED VIEW trap AS SELECT public.spring() AS n WITH NO DATA;
CREATE TABLE kept AS SELECT generate_series(1, 5) AS n;
"""


@pytest.fixture
def trap(environment, database) -> bytes:
    """An archive whose view, when it is refreshed, reaches for the environment's live database."""
    source = database()
    live = conninfo_to_dict(environment.dsn)["dbname"]
    with psycopg.connect(source, autocommit=True) as connection:
        connection.execute(TRAP.format(live=live))
        connection.execute("REFRESH MATERIALIZED VIEW trap")
    tools = choose_tools(find_tools(), server_major=18, is_local=True)
    return subprocess.run(
        [tools.pg_dump, "-Fc", "--dbname", source], check=True, capture_output=True
    ).stdout


@pytest.fixture
def imported(environment, admin):
    def run(data: bytes) -> Run:
        return execute(
            services.import_upload(
                actor=admin,
                target=environment.targets.get(),
                name="shop.dump",
                chunks=[data],
                idempotency_key=uuid.uuid4().hex,
            )
        )

    return run


def settings_of(dsn: str) -> list[str]:
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "SELECT setconfig FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase"
            " WHERE datname = current_database()"
        )
        return [row[0] for row in rows]


@pytest.mark.usefixtures("quarantine")
def test_code_of_an_archive_reaches_no_live_database(trap, imported, environment, target):
    run = imported(trap)
    assert run.status == RunStatus.SUCCEEDED, run.summary
    assert Backup.objects.get().proof == ProofLevel.RESTORED
    assert settings_of(environment.dsn) == []
    # Its sessions are those of another role, so this one was not ended.
    assert target.execute("SELECT 1").fetchone() == (1,)


def test_archive_is_stored_and_not_restored_without_a_quarantine(
    trap, imported, environment, target, as_role, admin
):
    client = as_role("admin")
    page = client.get(reverse("backup-import", args=["shop", "staging"]))
    assert "this environment has no quarantine" in page.text
    run = imported(trap)
    assert run.status == RunStatus.SUCCEEDED, run.summary
    assert "is stored and was not restored yet" in run.summary
    assert "no quarantine address is set" in log_of(run)
    backup = Backup.objects.get()
    assert backup.proof == ProofLevel.CHECKSUM
    assert settings_of(environment.dsn) == []
    assert target.execute("SELECT 1").fetchone() == (1,)
    assert "sets a quarantine address" in client.get(backup.get_absolute_url()).text

    again = execute(
        services.request_verify(
            actor=admin, backup=backup, idempotency_key=uuid.uuid4().hex, level=ProofLevel.RESTORED
        )
    )
    assert again.status == RunStatus.FAILED
    assert "no quarantine address is set" in again.summary
    backup.refresh_from_db()
    assert (backup.proof, backup.proof_problem) == (ProofLevel.CHECKSUM, "")


def test_restore_of_an_archive_made_elsewhere_asks_whether_it_is_trusted(
    trap, imported, quarantine, environment, operator, as_role
):
    imported(trap)
    backup = Backup.objects.get()
    with pytest.raises(Refused, match="say that you trust where it comes from") as refused:
        restore(operator, backup, environment)
    assert (refused.value.kind, refused.value.field) == (Kind.INVALID, "trusts_source")
    client, path = as_role("operator"), reverse("backup-restore", args=[backup.pk])
    assert "I trust where this archive comes from" in client.get(path).text
    answer = client.post(
        path,
        {
            "environment": environment.pk,
            "reason": "x",
            "typed_name": environment.slug,
            "how": "replace",
            "key": "k" * 32,
        },
    )
    assert answer.status_code == 422
    assert "say that you trust where it comes from" in answer.text


@pytest.mark.usefixtures("quarantine")
def test_own_backup_is_proven_beside_the_database_and_asks_for_no_trust(
    backup, environment, as_role
):
    assert backup.proof == ProofLevel.CONTENT
    page = as_role("operator").get(reverse("backup-restore", args=[backup.pk]))
    assert "I trust where this archive comes from" not in page.text


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("ALTER ROLE {role} CREATEROLE", "has CREATEROLE: ALTER ROLE {role} NOCREATEROLE"),
        ("GRANT {owner} TO {role}", "is a member of {owner}: REVOKE {owner} FROM {role}"),
        ("ALTER ROLE {role} NOCREATEDB", "may not create databases: ALTER ROLE {role} CREATEDB"),
        ("ALTER DATABASE {live} OWNER TO {role}", "owns {live}, which is not to be touched"),
    ],
)
def test_role_that_could_touch_more_is_refused_before_anything_is_restored(
    change, problem, trap, imported, quarantine, environment
):
    own, other = conninfo_to_dict(environment.dsn), conninfo_to_dict(quarantine)
    names = {"role": other["user"], "owner": own["user"], "live": own["dbname"]}
    with superuser() as connection:
        identifier = connection.execute("SELECT system_identifier FROM pg_control_system()")
        environment.targets.update(
            system_identifier=identifier.fetchone()[0], database_name=own["dbname"]
        )
        connection.execute(change.format(**names))
    run = imported(trap)
    assert run.status == RunStatus.FAILED
    assert problem.format(**names) in run.summary
    assert not Backup.objects.exists()
    with superuser() as connection:
        connection.execute('ALTER DATABASE "{live}" OWNER TO "{owner}"'.format(**names))


def test_role_of_the_live_database_is_no_quarantine_however_it_is_spelled(
    trap, imported, environment
):
    own = conninfo_to_dict(environment.dsn)
    address = f"host={own['host']} user={own['user']} password={own['password']} dbname=postgres"
    environment.targets.update(quarantine_dsn_encrypted=seal(address))
    run = imported(trap)
    assert run.status == RunStatus.FAILED
    assert "is the role of the live database: make another one" in run.summary


def test_lost_proof_leaves_nothing_in_quarantine(trap, imported, quarantine, environment, admin):
    imported(trap)
    run = services.request_verify(
        actor=admin, backup=Backup.objects.get(), idempotency_key=uuid.uuid4().hex,
        level=ProofLevel.RESTORED,
    )  # fmt: skip
    database = conninfo_to_dict(environment.dsn)["dbname"]
    with psycopg.connect(quarantine, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{building.quarantined_name(database, run.pk)}"')
        lose(run)
        left = connection.execute("SELECT 1 FROM pg_database WHERE datname LIKE '%\\_\\_quaran%'")
        assert left.fetchall() == []


REACH = Reach(1, "q", False, False, False, False, True, (), ("q",))


@pytest.mark.fast
def test_role_that_touches_only_its_own_is_confined():
    live = Reach(1, "app", False, False, False, False, True, (), ("live",))
    assert list(problems_of(REACH, live, {"live", "live__old1"})) == []
