"""Backups, proofs and restores on a real server, and each way they can go wrong."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from unittest.mock import Mock

import psycopg
import pytest
from django.conf import settings
from django.db.models.functions import Now

from backups_app import services
from backups_app.choices import ProofLevel
from backups_app.models import Backup, ReplacedDatabase
from backups_app.parameters import RestoreParameters
from backups_app.runs import building, operations, restore_check, swapping
from backups_app.stores.local import LocalStore
from opsconsole.environments import survey
from opsconsole.exceptions import AdapterError, Kind, Refused, StepFailed
from opsconsole.runs import services as runs
from opsconsole.runs.choices import RunKind, RunStatus
from opsconsole.runs.models import Run
from opsconsole.work.models import WorkItem
from tests.backups_app.conftest import lose, restore
from tests.conftest import log_of, superuser
from tests.worker import check_copy, do_work, drop_replaced_database, execute_run

pytestmark = pytest.mark.usefixtures("transactional_db")


def path_of(backup: Backup) -> Path:
    return folder().path(backup.key)


def folder() -> LocalStore:
    return LocalStore(settings.BACKUPS_FOLDER)


def databases_like(connection: psycopg.Connection) -> list[str]:
    rows = connection.execute(
        "SELECT datname FROM pg_database WHERE starts_with(datname, current_database() || '__')"
        " ORDER BY 1"
    )
    return [row[0] for row in rows]


def test_backup_is_proven_and_its_manifest_lies_beside_it(backup):
    manifest = json.loads(path_of(backup).with_name(path_of(backup).name + ".json").read_text())
    assert manifest == backup.manifest
    assert (manifest["proof"], manifest["sha256"]) == ("content", backup.sha256)
    assert check_copy(backup.copies.get()) == ""
    assert backup.manifest["content"]["tables"]["public.targets"]["rows"] == 1000


def test_content_with_odd_names_types_and_large_objects_is_equal(run_backup, target):
    target.execute(
        """
        CREATE TABLE "Odd ""name"" with spaces" (a text, b bytea, c timestamptz, d float8, e jsonb);
        INSERT INTO "Odd ""name"" with spaces"
             VALUES ('é''x', '\\xdeadbeef', now(), 1/3.0::float8, '{"a": [1]}'), (NULL, '', NULL, 'NaN', '1');
        CREATE TABLE parts (id int, day date) PARTITION BY RANGE (day);
        CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
        INSERT INTO parts VALUES (1, '2026-06-01');
        CREATE TABLE made (id int GENERATED ALWAYS AS IDENTITY, twice int GENERATED ALWAYS AS (2) STORED);
        INSERT INTO made DEFAULT VALUES;
        CREATE SEQUENCE never_used START 50;
        SELECT lo_from_bytea(0, 'large');
        CREATE MATERIALIZED VIEW seen AS SELECT count(*) FROM made;
        """
    )
    run = run_backup()
    assert run.status == RunStatus.SUCCEEDED, run.summary
    assert Backup.objects.get(run=run).proof == ProofLevel.CONTENT


def test_role_that_may_not_create_databases_is_refused_with_the_remedy(run_backup, environment):

    name = psycopg.conninfo.conninfo_to_dict(environment.dsn)["user"]
    with superuser() as connection:
        connection.execute(f'ALTER ROLE "{name}" NOCREATEDB')
    run = run_backup()
    assert (run.status, f'ALTER ROLE "{name}" CREATEDB' in run.summary) == (RunStatus.FAILED, True)


def test_server_without_fitting_tools_is_refused_naming_the_package(run_backup, monkeypatch):
    monkeypatch.setattr(survey, "find_tools", lambda _folders: [])
    run = run_backup()
    assert "install the package postgresql-client-18" in run.summary


def test_full_backups_folder_is_refused_before_anything_is_written(run_backup, monkeypatch):
    monkeypatch.setattr(LocalStore, "free_bytes", lambda _self: 1000)
    run = run_backup()
    assert "free some space and run again" in run.summary
    assert not Backup.objects.exists()


def test_disk_that_fills_up_leaves_nothing(run_backup, monkeypatch):
    monkeypatch.setattr(LocalStore, "_opened", lambda *_: open("/dev/full", "wb"))
    run = run_backup()
    assert run.status == RunStatus.FAILED
    assert "cannot write the archive: No space left on device" in run.summary
    assert not Backup.objects.exists()
    assert list(folder().root.rglob(f"*run{run.pk}.*")) == []


def test_pg_dump_that_fails_leaves_nothing_and_its_words_in_the_log(run_backup, target):
    target.execute("CREATE TABLE gone (x int)")
    owner = target.info.user

    target.execute(f'REVOKE ALL ON gone FROM "{owner}"')
    run = run_backup()
    assert run.status == RunStatus.FAILED
    assert "permission denied for table gone" in log_of(run)
    assert not Backup.objects.exists()


def test_restore_puts_back_what_was_there_and_keeps_what_is_replaced(
    backup, environment, operator, target
):
    target.execute("DELETE FROM targets; INSERT INTO users (name) VALUES ('later')")
    target.close()

    run = restore(operator, backup, environment)

    assert run.status == RunStatus.SUCCEEDED, run.summary
    replaced = ReplacedDatabase.objects.get(run=run)
    with psycopg.connect(environment.dsn) as connection:
        assert connection.execute("SELECT count(*) FROM targets").fetchone() == (1000,)
        assert databases_like(connection) == [replaced.replaced_name]
    assert run.result["replaced"] == replaced.replaced_name


PROPERTIES = """
SELECT current_setting('search_path'), current_setting('work_mem'), datconnlimit,
       shobj_description(d.oid, 'pg_database'),
       (SELECT array_agg(s.setrole::regrole || ' ' || s.setconfig::text ORDER BY s.setrole)
          FROM pg_db_role_setting s WHERE s.setdatabase = d.oid),
       (SELECT array_agg(a::text ORDER BY a::text) FROM aclexplode(d.datacl) a),
       has_database_privilege('pg_monitor', d.oid, 'CONNECT')
  FROM pg_database d WHERE datname = current_database()
"""


def test_restore_carries_over_settings_limits_rights_and_comment(backup, environment, operator):
    with psycopg.connect(environment.dsn, autocommit=True) as connection:
        name = connection.info.dbname
        for change in (
            "ALTER DATABASE {} SET work_mem = '7MB'",
            """ALTER DATABASE {} SET search_path = public, "$user", "a, b", "q""q" """,
            "ALTER ROLE {} IN DATABASE {} SET statement_timeout = '9s'",
            "ALTER ROLE {} IN DATABASE {} SET temp_tablespaces = ''",
            "ALTER DATABASE {} CONNECTION LIMIT 42",
            "COMMENT ON DATABASE {} IS 'the shop'",
            "GRANT CREATE ON DATABASE {} TO pg_monitor WITH GRANT OPTION",
            "REVOKE CONNECT, TEMPORARY ON DATABASE {} FROM PUBLIC",
            "REVOKE TEMPORARY ON DATABASE {} FROM {}",
        ):
            connection.execute(change.replace("{}", f'"{name}"'))
        connection.close()
    with psycopg.connect(environment.dsn) as connection:
        before = connection.execute(PROPERTIES).fetchone()

    run = restore(operator, backup, environment)

    assert run.status == RunStatus.SUCCEEDED, run.summary
    with psycopg.connect(environment.dsn) as connection:
        assert connection.execute(PROPERTIES).fetchone() == before


def test_restore_into_another_environment_gives_it_to_that_role(backup, make_environment, admin):
    other = make_environment("development", position=2)
    run = restore(admin, backup, other)
    assert run.status == RunStatus.SUCCEEDED, run.summary
    with psycopg.connect(other.dsn) as connection:
        owner = connection.execute(
            "SELECT tableowner FROM pg_tables WHERE tablename = 'users'"
        ).fetchone()
        assert owner == (connection.info.user,)


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", ["flip", "truncate", "swap", "missing"])
def test_restore_refuses_a_damaged_archive_before_anything_is_replaced(
    backup, environment, operator, target, damage
):
    path = path_of(backup)
    if damage == "flip":
        flip(path, len(path.read_bytes()) // 2)
    elif damage == "truncate":
        os.truncate(path, path.stat().st_size // 2)
    elif damage == "swap":
        path.write_bytes(b"not an archive at all")
    else:
        path.unlink()
    target.execute("INSERT INTO users (name) VALUES ('still here')")

    run = restore(operator, backup, environment)

    assert run.status == RunStatus.FAILED
    assert "archive" in run.summary
    assert "The live database was not touched." in run.summary
    assert target.execute("SELECT count(*) FROM users").fetchone() == (201,)
    assert databases_like(target) == []


def test_proving_again_finds_a_damaged_archive(backup, operator):
    flip(path_of(backup), 100)
    made = services.request_verify(actor=operator, backup=backup, idempotency_key="v" * 32)
    execute_run(made.pk, "w")
    made.refresh_from_db()
    assert (made.status, "corrupt" in made.summary) == (RunStatus.FAILED, True)


def test_proving_again_succeeds_on_a_good_archive(backup, operator):
    made = services.request_verify(actor=operator, backup=backup, idempotency_key="v" * 32)
    execute_run(made.pk, "w")
    made.refresh_from_db()
    assert made.status == RunStatus.SUCCEEDED, made.summary


def test_unproven_backup_cannot_be_restored(backup, environment, operator):
    Backup.objects.update(proof=ProofLevel.CHECKSUM)
    backup.refresh_from_db()
    with pytest.raises(Refused, match="never proven"):
        restore(operator, backup, environment)


@pytest.mark.parametrize(
    ("meanwhile", "why"),
    [({"proof": ProofLevel.CHECKSUM}, "never proven"), ({"deleted_at": Now()}, "been deleted")],
)
def test_claim_of_a_restore_is_refused_when_the_backup_fails_meanwhile(
    backup, environment, operator, meanwhile, why
):
    run = services.request_restore(
        actor=operator,
        backup=backup,
        target=environment.targets.get(),
        typed_name="staging",
        idempotency_key="k" * 32,
    )
    Backup.objects.update(**meanwhile)
    execute_run(run.pk, "w")
    run.refresh_from_db()
    assert run.status == RunStatus.FAILED
    assert why in run.summary
    assert not run.steps.exists()


@pytest.mark.django_db
def test_restore_of_a_backup_that_is_not_listed_is_refused(environment, operator):
    with pytest.raises(Refused, match="has been deleted"):
        runs.request_run(
            actor=operator,
            target=environment.targets.get(),
            parameters=RestoreParameters(backup=999),
            idempotency_key="k" * 32,
        )


def test_restore_needs_the_typed_name(backup, environment, operator):
    with pytest.raises(Refused) as refusal:
        restore(operator, backup, environment, typed_name="prod")
    assert refusal.value.kind is Kind.INVALID


def test_protected_data_goes_elsewhere_only_with_an_admin(backup, make_environment, operator):
    backup.environment.is_protected = True
    other = make_environment("development", position=2)
    with pytest.raises(Refused) as refusal:
        restore(operator, backup, other)
    assert refusal.value.kind is Kind.FORBIDDEN


def test_restore_is_refused_while_a_logical_slot_blocks_it(backup, environment, operator):

    name = psycopg.conninfo.conninfo_to_dict(environment.dsn)["dbname"]
    with superuser() as admin, superuser(name) as connection:
        connection.execute("SELECT pg_create_logical_replication_slot('held', 'pgoutput')")
        try:
            assert "replication slot held" in restore(operator, backup, environment).summary
        finally:
            admin.execute("SELECT pg_drop_replication_slot('held')")


def test_restore_is_refused_while_a_prepared_transaction_blocks_it(backup, environment, operator):
    with psycopg.connect(environment.dsn, autocommit=True) as connection:
        connection.execute("BEGIN")
        connection.execute("INSERT INTO users (name) VALUES ('x')")
        connection.execute("PREPARE TRANSACTION 'held'")
        try:
            assert "ROLLBACK PREPARED" in restore(operator, backup, environment).summary
        finally:
            connection.execute("ROLLBACK PREPARED 'held'")


def test_session_of_a_role_that_may_not_be_ended_leaves_the_live_database_open(
    backup, environment, operator
):

    name = psycopg.conninfo.conninfo_to_dict(environment.dsn)["dbname"]
    with superuser(name):
        run = restore(operator, backup, environment)
    assert run.status == RunStatus.FAILED
    assert "sessions of a role this one may not end are in the way: postgres" in run.summary
    psycopg.connect(environment.dsn).close()


@pytest.mark.parametrize(
    ("sees_whose", "why"),
    [(False, "is being accessed by other users"), (True, "do not end: 1 left")],
)
def test_swap_that_cannot_empty_the_database_reopens_it(
    backup, environment, operator, monkeypatch, sees_whose, why
):
    for module in (swapping, restore_check):
        monkeypatch.setattr(module, "sessions_not_ours_to_end", lambda *_: [])
    name = psycopg.conninfo.conninfo_to_dict(environment.dsn)["dbname"]
    with superuser(name) as stranger:
        if sees_whose:
            user = psycopg.conninfo.conninfo_to_dict(environment.dsn)["user"]
            stranger.execute(f'GRANT pg_read_all_stats TO "{user}"')
        run = restore(operator, backup, environment)
    assert run.status == RunStatus.FAILED
    assert "were not exchanged, the live one is open" in run.summary
    assert why in run.summary
    assert "reopened" in log_of(run)
    psycopg.connect(environment.dsn).close()
    assert not ReplacedDatabase.objects.exclude(swapped_at=None).exists()


def test_database_built_in_vain_is_dropped_though_the_first_try_is_cut_off(
    backup, environment, operator, monkeypatch
):
    drop, cut_off = building.server.drop_database, []

    def cut_off_once(connection, name):
        if "cleanup" in connection.info.dsn and not cut_off:
            cut_off.append(name)
            with superuser() as cluster:
                cluster.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
        drop(connection, name)

    monkeypatch.setattr(building.server, "drop_database", cut_off_once)
    monkeypatch.setattr(swapping, "swap_in", Mock(side_effect=StepFailed("not exchanged")))
    run = restore(operator, backup, environment)
    assert run.status == RunStatus.FAILED
    with psycopg.connect(environment.dsn) as connection:
        name = building.built_name(connection.info.dbname, run.pk)
        assert building.server.database_oid(connection, name) is None
    assert cut_off == [name]
    assert "cleaning up" not in log_of(run)


def test_drop_removes_only_the_replaced_database(backup, environment, operator, admin):
    replaced = ReplacedDatabase.objects.get(run=restore(operator, backup, environment))
    with pytest.raises(Refused):
        services.request_drop(actor=operator, replaced=replaced, typed_name=replaced.replaced_name)
    services.request_drop(actor=admin, replaced=replaced, typed_name=replaced.replaced_name)
    do_work(WorkItem.objects.get().pk)
    drop_replaced_database(replaced)
    with psycopg.connect(environment.dsn) as connection:
        assert databases_like(connection) == []
    with pytest.raises(Refused):
        services.request_drop(actor=admin, replaced=replaced, typed_name=replaced.replaced_name)


# -- lost runs


def test_lost_backup_with_a_proven_archive_is_succeeded(run_backup):
    assert lose(run_backup()).status == RunStatus.SUCCEEDED


def test_lost_backup_before_its_proof_is_failed_and_listed_as_checksum_only(run_backup):
    run = run_backup()
    Backup.objects.update(proof=ProofLevel.CHECKSUM)
    assert "stays listed as checksum only" in lose(run).summary


def test_lost_backup_leaves_no_file_and_no_scratch_database(environment, operator, target):
    run = services.request_backup(
        actor=operator, target=environment.targets.get(), idempotency_key=uuid.uuid4().hex
    )
    partial = folder().path(f"{environment.path}/20260101T000000Z-run{run.pk}.dump.zst.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_bytes(b"half")
    name = building.proof_name(target.info.dbname, run.pk)
    target.execute(f'CREATE DATABASE "{name}"')

    assert lose(run).status == RunStatus.FAILED
    assert not partial.exists()
    assert databases_like(target) == []


def test_lost_restore_is_what_the_catalogue_says(backup, environment, operator):
    run = restore(operator, backup, environment)
    Run.objects.filter(pk=run.pk).update(result={})
    assert lose(run).status == RunStatus.SUCCEEDED
    assert run.result["replaced"]


def test_lost_restore_after_which_health_is_failing_says_so(backup, environment, operator, target):
    target.close()
    run = restore(operator, backup, environment)
    with psycopg.connect(environment.dsn, autocommit=True) as connection:
        connection.execute("ALTER TABLE targets RENAME COLUMN amount TO goal")
    lost = lose(run)
    assert lost.status == RunStatus.FAILED
    assert lost.summary.startswith("Health is failing: amounts: 42703 ")
    assert "the restored database is live" in lost.summary


@pytest.mark.parametrize(
    ("new_database", "shown"),
    [
        ("", "the live database was not replaced."),
        ("copy", "the new database copy was not made. The live database was not touched."),
    ],
)
def test_lost_restore_before_its_end_says_what_did_not_come_about(
    backup, environment, operator, new_database, shown
):
    made = services.request_restore(
        actor=operator,
        backup=backup,
        target=environment.targets.get(),
        typed_name="staging",
        idempotency_key="x" * 32,
        new_database=new_database,
    )
    lost = lose(made)
    assert (lost.status, lost.summary) == (
        RunStatus.FAILED,
        f"The run was lost, and the server shows that {shown}",
    )


def test_run_stays_lost_while_the_target_does_not_answer(environment, operator, monkeypatch):
    def unreachable(_run):
        raise AdapterError("the server does not answer")

    run = services.request_backup(
        actor=operator, target=environment.targets.get(), idempotency_key=uuid.uuid4().hex
    )
    monkeypatch.setattr(operations, "resolve_dsn", unreachable)
    assert lose(run).status == RunStatus.LOST


def test_other_application_s_backup_is_refused(backup, make_environment, operator):
    from opsconsole.environments.models import Application

    other = make_environment("development", position=2)
    other.application = Application.objects.create(name="Other", slug="other")
    other.save()
    with pytest.raises(Refused, match="another application"):
        restore(operator, backup, other)


def test_way_back_is_offered_only_by_a_run_that_needs_it(run_backup, operator):
    with pytest.raises(Refused, match="offers no way back"):
        services.choose_way_back(
            actor=operator, run=run_backup(), reason="x", idempotency_key="w" * 32
        )
    assert not Run.objects.filter(kind=RunKind.RESTORE).exists()


def test_killed_swap_child_leaves_the_live_database_open(
    backup, environment, operator, monkeypatch
):
    import signal

    import psutil

    from opsconsole.runs.step import RunContext

    # A stopped backend does not end: the exchange is held open between ended and renamed.
    stubborn = psycopg.connect(environment.dsn)
    os.kill(stubborn.info.backend_pid, signal.SIGSTOP)
    original = RunContext.log

    def log(self, text, tone=""):
        if text == "swap: closed":
            for child in psutil.Process().children():
                if "opsconsole.targets.swap" in child.cmdline():
                    child.kill()
                    child.wait()
            # Only now: DROP DATABASE waits for every backend of the server, stopped ones too.
            os.kill(stubborn.info.backend_pid, signal.SIGCONT)
        original(self, text, tone)

    monkeypatch.setattr(RunContext, "log", log)
    run = restore(operator, backup, environment)
    stubborn.close()

    assert run.status == RunStatus.FAILED
    assert "were not exchanged, the live one is open" in run.summary
    psycopg.connect(environment.dsn).close()
