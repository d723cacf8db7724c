"""Event triggers, which only a superuser makes, in what is backed up and restored."""

from __future__ import annotations

import uuid
from pathlib import Path

import psycopg
import pytest

from backups_app import services
from backups_app.archives.restore import Restoration, entries_of
from backups_app.choices import ProofLevel
from backups_app.models import Backup
from backups_app.runs.restorable import trial_of
from backups_app.runs.restore_check import find
from opsconsole.runs.choices import RunStatus
from opsconsole.targets import ddl_log
from opsconsole.targets.dsn import Dsn
from opsconsole.targets.event_triggers import EventTrigger
from tests.backups_app.conftest import execute, restore
from tests.backups_app.test_imports import dumped
from tests.conftest import log_of, superuser

pytestmark = pytest.mark.usefixtures("transactional_db")
GUARD = """
CREATE FUNCTION "keep off"() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN END $$;
COMMENT ON FUNCTION "keep off"() IS 'ours';
REVOKE ALL ON FUNCTION "keep off"() FROM PUBLIC;
CREATE EVENT TRIGGER "no drops" ON sql_drop EXECUTE FUNCTION "keep off"();
COMMENT ON EVENT TRIGGER "no drops" IS 'Ask the DBA';
"""
TRIGGERS = "SELECT evtname FROM pg_event_trigger ORDER BY 1"


@pytest.fixture
def guarded(environment, target):
    """The environment, with an event trigger of a superuser and the log of schema changes."""
    with superuser(target.info.dbname) as connection:
        connection.execute(GUARD)
        connection.execute(ddl_log.install_sql(target.info.user))
    target.execute("CREATE TABLE noted (id int)")
    return environment


@pytest.mark.parametrize(
    "policy",
    [{}, {"level": 0}, {"format": "directory", "jobs": 2}, {"jobs": 2}],
    ids=["stream", "plain", "directory", "parallel"],
)
def test_backup_with_event_triggers_is_proven_and_restored_without_them(
    guarded, run_backup, set_policy, operator, policy
):
    set_policy(**policy)
    run = run_backup()
    assert run.status == RunStatus.SUCCEEDED, run.summary
    backup = Backup.objects.get(run=run)
    assert backup.proof == ProofLevel.CONTENT
    assert not any(name.startswith("opsconsole_log") for name in backup.tables)
    restored = restore(operator, backup, guarded, consents=["event trigger no drops"])
    assert restored.status == RunStatus.SUCCEEDED, restored.summary
    said = "restore: without these event triggers and their functions, as "
    assert log_of(restored).count(said) == 1
    with psycopg.connect(guarded.dsn) as connection:
        assert connection.execute(TRIGGERS).fetchall() == []
        assert connection.execute("SELECT to_regproc('\"keep off\"')").fetchone() == (None,)
        assert connection.execute("SELECT to_regclass('noted')").fetchone() == ("noted",)


@pytest.mark.parametrize(
    ("line", "is_left_out"),
    [
        ("2438; 3466 19645 EVENT TRIGGER - no drops the dba", True),
        ('2617; 0 0 COMMENT - EVENT TRIGGER "no drops" postgres', True),
        ("227; 1255 19644 FUNCTION public keep off() the dba", True),
        ('2612; 0 0 ACL public FUNCTION "keep off"() postgres', True),
        ("2439; 3466 19663 EVENT TRIGGER - no drops2 postgres", False),
        ("228; 1255 19650 FUNCTION public keep off(integer) postgres", False),
        ("229; 1255 19651 FUNCTION other keep off() postgres", False),
        ("226; 1259 19665 TABLE public EVENT TRIGGER - no drops postgres", False),
        ("; EVENT TRIGGER - no drops postgres", False),
    ],
)
def test_exactly_the_entries_of_an_event_trigger_are_left_out(line, is_left_out):
    without = entries_of([EventTrigger("no drops", "public", "keep off")])
    how = Restoration("db", "custom", 1, True, Path("/nowhere"), without)
    assert how.leaves_out(line) is is_left_out


def test_superuser_restores_event_triggers_but_not_the_log(guarded, run_backup, operator):
    dsn = guarded.dsn
    with superuser() as connection:
        user = psycopg.conninfo.conninfo_to_dict(dsn)["user"]
        connection.execute(f'ALTER ROLE "{user}" SUPERUSER')
    backup = Backup.objects.get(run=run_backup())
    restored = restore(operator, backup, guarded)
    assert restored.status == RunStatus.SUCCEEDED, restored.summary
    with psycopg.connect(dsn) as connection:
        assert connection.execute(TRIGGERS).fetchall() == [("no drops",)]


def test_check_names_the_event_triggers_that_will_be_missing(guarded, run_backup, target):
    backup = Backup.objects.get(run=run_backup())
    trial = trial_of(Dsn.parse(guarded.dsn), "_look", "opsconsole:check")
    texts = [
        finding.text
        for finding in find(target, backup, trial, keeps_owners=True)
        if finding.what == "event triggers"
    ]
    assert texts == [
        "no drops, with their functions, will be missing afterwards: only a superuser makes them, "
        f"and {target.info.user} is none. Have one make them again"
    ]


def test_rows_of_the_log_are_no_rows_of_the_application(guarded, target):
    from opsconsole.targets import activity, content

    target.execute("CREATE TABLE another (id int)")
    target.execute("SELECT pg_stat_force_next_flush()")
    target.execute("SELECT 1")
    with superuser(target.info.dbname) as connection:
        assert connection.execute("SELECT count(*) > 0 FROM opsconsole_log.changes").fetchone()
        spaces = {name.split(".")[0] for name in activity.rows_written_by_table(connection)}
        assert spaces == {"public"}
        assert set(content.count_rows(connection)) == {
            "public._prisma_migrations",
            "public.another",
            "public.noted",
            "public.targets",
            "public.users",
        }


def test_imported_archive_with_event_triggers_is_restored_without_them(guarded, admin, quarantine):
    archive = dumped(guarded.dsn, "--format=custom")
    run = execute(
        services.import_upload(
            actor=admin,
            target=guarded.targets.get(),
            name="shop.dump",
            chunks=[archive],
            idempotency_key=uuid.uuid4().hex,
        )
    )
    assert run.status == RunStatus.SUCCEEDED, run.summary
    role = psycopg.conninfo.conninfo_to_dict(quarantine)["user"]
    assert (
        "restore: without these event triggers and their functions, as "
        f"{role} is no superuser: no drops"
    ) in log_of(run).splitlines()
