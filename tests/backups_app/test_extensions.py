"""Extensions with tables and jobs of their own, played by small ones of the same names and rules."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from backups_app.choices import ProofLevel
from backups_app.models import Backup, RestoreCheck
from backups_app.runs import restore_check
from opsconsole.runs.choices import RunStatus
from tests.backups_app.conftest import restore
from tests.conftest import log_of, superuser
from tests.worker import as_worker

pytestmark = pytest.mark.usefixtures("transactional_db")

check_restore = as_worker()(restore_check.check_restore)

# As TimescaleDB's: its catalogue takes rows only between the two calls, which are kept on the
# database, and what a job does shows that it was at work.
TIMESCALEDB = """
CREATE SCHEMA _timescaledb_catalog;
CREATE TABLE _timescaledb_catalog.hypertable (name text);
SELECT pg_catalog.pg_extension_config_dump('_timescaledb_catalog.hypertable', '');
CREATE FUNCTION _timescaledb_catalog.guard() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF current_setting('timescaledb.restoring', true) IS DISTINCT FROM 'on' THEN
    RAISE EXCEPTION 'not restoring';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT ON _timescaledb_catalog.hypertable
  FOR EACH ROW EXECUTE FUNCTION _timescaledb_catalog.guard();
CREATE FUNCTION timescaledb_pre_restore() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
  EXECUTE format('ALTER DATABASE %I SET timescaledb.restoring = on', current_database());
  RETURN true;
END $$;
CREATE FUNCTION timescaledb_post_restore() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
  EXECUTE format('ALTER DATABASE %I RESET timescaledb.restoring', current_database());
  INSERT INTO public.work VALUES ('a job of ' || current_database());
  RETURN true;
END $$;
"""
# As pg_cron's: only in the database that the server's settings name.
PG_CRON = """
DO $$ BEGIN
  IF current_database() LIKE '%\\_\\_%' THEN
    RAISE EXCEPTION 'can only create extension in database %', split_part(current_database(), '__', 1);
  END IF;
END $$;
CREATE SCHEMA cron;
CREATE TABLE cron.job (jobid bigserial, command text);
SELECT pg_catalog.pg_extension_config_dump('cron.job', '');
SELECT pg_catalog.pg_extension_config_dump('cron.job_jobid_seq', '');
"""


@pytest.fixture
def installed():
    """Both, on the server of the tests, whose account is another one."""
    with TemporaryDirectory() as name, superuser() as connection:
        folder = Path(name)
        folder.chmod(0o755)
        for extension, script in (("timescaledb", TIMESCALEDB), ("pg_cron", PG_CRON)):
            write_extension(folder / "extension", extension, script)
        connection.execute(f"ALTER SYSTEM SET extension_control_path = '{folder}:$system'")
        connection.execute("SELECT pg_reload_conf()")
        yield
        connection.execute("ALTER SYSTEM RESET extension_control_path")
        connection.execute("SELECT pg_reload_conf()")


def write_extension(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    control = "default_version = '1'\nsuperuser = false\nrelocatable = false\n"
    (folder / f"{name}.control").write_text(control)
    (folder / f"{name}--1.sql").write_text(script)


@pytest.fixture
def hypertables(installed, environment):
    owner = conninfo_to_dict(environment.dsn)["user"]
    with superuser() as connection:
        # Where it is loaded, anybody may set it.
        connection.execute(f'GRANT SET ON PARAMETER timescaledb.restoring TO "{owner}"')
    with psycopg.connect(environment.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE work (done text)")
        connection.execute("CREATE EXTENSION timescaledb")
        connection.execute("SET timescaledb.restoring = on")
        connection.execute("INSERT INTO _timescaledb_catalog.hypertable VALUES ('conditions')")
        connection.execute("CREATE SCHEMA _timescaledb_internal")
        connection.execute(
            "CREATE TABLE _timescaledb_internal._hyper_1_1_chunk AS SELECT generate_series(1, 9) n"
        )
    yield
    with superuser() as connection:
        connection.execute(f'REVOKE SET ON PARAMETER timescaledb.restoring FROM "{owner}"')


def test_timescaledb_is_restored_as_documented_and_its_jobs_rest_until_it_is_compared(
    hypertables, run_backup, environment, operator, set_policy
):
    set_policy(format="directory", jobs=2)
    run = run_backup()
    assert run.status == RunStatus.SUCCEEDED, run.summary
    backup = Backup.objects.get()
    assert backup.proof == ProofLevel.CONTENT
    assert backup.tables["_timescaledb_internal._hyper_1_1_chunk"]["rows"] == 9
    assert "_timescaledb_catalog.hypertable" not in backup.tables

    done = restore(operator, backup, environment)
    assert done.status == RunStatus.SUCCEEDED, done.summary
    with psycopg.connect(environment.dsn) as connection:
        kept = connection.execute("SELECT name FROM _timescaledb_catalog.hypertable").fetchall()
        work = connection.execute("SELECT done FROM work").fetchall()
        left = connection.execute("SELECT current_setting('timescaledb.restoring', true)")
        assert kept == [("conditions",)]
        assert work == [(f"a job of {conninfo_to_dict(environment.dsn)['dbname']}__new{done.pk}",)]
        assert left.fetchone()[0] in (None, "")


def test_pg_cron_and_its_jobs_are_left_out_of_every_copy_and_that_is_said_before(
    installed, environment, run_backup, operator
):
    with psycopg.connect(environment.dsn, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION pg_cron; COMMENT ON EXTENSION pg_cron IS 'jobs'")
        connection.execute("INSERT INTO cron.job (command) VALUES ('VACUUM')")
    run = run_backup()
    assert run.status == RunStatus.SUCCEEDED, run.summary
    assert "without pg_cron and its jobs" in log_of(run)
    backup = Backup.objects.get()
    check = RestoreCheck.objects.create(backup=backup, target=backup.target)
    check_restore(check)
    found = next(f for f in check.data["findings"] if f["what"] == "pg_cron")
    assert found["is_ok"]
    assert "CREATE EXTENSION pg_cron" in found["text"]

    refused = restore(operator, backup, environment)
    assert refused.summary.startswith("Preflight failed: ")
    assert "extension pg_cron would be missing" in refused.summary
    done = restore(operator, backup, environment, consents=["extension pg_cron"])
    assert done.status == RunStatus.SUCCEEDED, done.summary
    with psycopg.connect(environment.dsn) as connection:
        there = connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'pg_cron'")
        assert there.fetchall() == []
