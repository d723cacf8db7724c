"""What belongs to a database is equal after an exchange, or somebody consented that it is not."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from django.urls import reverse

from backups_app.models import Backup, ReplacedDatabase, RestoreCheck
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.models import Run
from opsconsole.targets.belongings import Belongings, read_belongings
from tests.backups_app.conftest import execute, restore
from tests.backups_app.test_restores import undo
from tests.conftest import log_of, superuser
from tests.worker import check_restore

pytestmark = pytest.mark.usefixtures("transactional_db")

BY_ITS_OWNER = """
CREATE SCHEMA more;
CREATE TABLE more.parts (id int PRIMARY KEY, "Day" date, kind text);
CREATE STATISTICS more.kinds ON kind, "Day" FROM more.parts;
ALTER STATISTICS more.kinds SET STATISTICS 7;
CREATE CAST (text AS users) WITH INOUT;
SELECT lo_from_bytea(4711, 'large');
GRANT SELECT ON LARGE OBJECT 4711 TO pg_monitor;
CREATE PUBLICATION "some" FOR TABLE users, TABLE more.parts (id, "Day") WHERE (id > 7)
  WITH (publish = 'insert, delete', publish_via_partition_root);
COMMENT ON PUBLICATION "some" IS 'for the shop';
CREATE PUBLICATION empty;
ALTER DEFAULT PRIVILEGES IN SCHEMA more GRANT SELECT ON TABLES TO pg_monitor WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DATABASE {0} SET work_mem = '7MB';
ALTER DATABASE {0} SET search_path = public, "$user", "a, b";
ALTER DATABASE {0} SET application_name = 'x''y';
ALTER ROLE {0} IN DATABASE {0} SET statement_timeout = '9s';
ALTER DATABASE {0} SET default_transaction_read_only = on;
ALTER DATABASE {0} CONNECTION LIMIT 42;
ALTER DATABASE {0} IS_TEMPLATE true;
COMMENT ON DATABASE {0} IS 'the shop';
GRANT CREATE ON DATABASE {0} TO pg_monitor WITH GRANT OPTION;
REVOKE CONNECT, TEMPORARY ON DATABASE {0} FROM PUBLIC;
"""
LATER = """
SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE;
COMMIT;
ALTER DATABASE {0} RESET work_mem;
ALTER DATABASE {0} SET application_name = 'z';
ALTER DATABASE {0} IS_TEMPLATE false;
COMMENT ON DATABASE {0} IS NULL;
GRANT CONNECT ON DATABASE {0} TO pg_read_all_data;
REVOKE CREATE ON DATABASE {0} FROM pg_monitor;
DROP PUBLICATION empty;
CREATE PUBLICATION later FOR TABLE users;
ALTER PUBLICATION "some" DROP TABLE users;
ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC;
"""


@pytest.fixture
def tablespace() -> Iterator[str]:
    """One that lives longer than the databases in it."""
    with superuser() as connection:
        connection.execute("SET allow_in_place_tablespaces = on")
        connection.execute("CREATE TABLESPACE elsewhere LOCATION ''")
        connection.execute("GRANT CREATE ON TABLESPACE elsewhere TO PUBLIC")
        yield "elsewhere"
        connection.execute("DROP TABLESPACE elsewhere")


def belongings_of(environment) -> Belongings:
    with psycopg.connect(environment.dsn, autocommit=True) as connection:
        return read_belongings(connection, "replacement")


def test_everything_that_belongs_to_a_database_is_equal_after_a_restore_and_its_undo(
    tablespace, environment, target, run_backup, operator
):
    name = target.info.dbname
    target.execute(BY_ITS_OWNER.format(f'"{name}"').encode())
    target.close()
    with superuser() as connection:
        connection.execute(f'ALTER DATABASE "{name}" SET TABLESPACE {tablespace}'.encode())
    before = belongings_of(environment)
    backup = Backup.objects.get(run=run_backup())

    run = restore(operator, backup, environment)

    assert run.status == RunStatus.SUCCEEDED, run.summary
    assert belongings_of(environment) == before
    # What is changed afterwards is carried over as well, and what is taken away stays so.
    with psycopg.connect(environment.dsn, autocommit=True) as connection:
        connection.execute(LATER.format(f'"{connection.info.dbname}"').encode())
    changed = belongings_of(environment)
    run = undo(ReplacedDatabase.objects.get(run=run), operator)
    assert run.status == RunStatus.SUCCEEDED, run.summary
    assert belongings_of(environment) == changed


def test_what_cannot_be_carried_over_stops_an_exchange_until_it_is_consented_to(
    backup, environment, operator, as_role, target
):
    name = target.info.dbname
    target.close()
    with superuser(name) as connection:
        connection.execute(f'ALTER DATABASE "{name}" SET log_min_duration_statement = 7')
        connection.execute("CREATE PUBLICATION everything FOR ALL TABLES")
        # As a provider that is not loaded would have written it.
        connection.execute("SET allow_system_table_mods = on")
        connection.execute(
            "INSERT INTO pg_shseclabel SELECT oid, 'pg_database'::regclass, 'sel', 'top'"
            " FROM pg_database WHERE datname = current_database()"
        )
    stays = [
        "publication everything",
        "security label sel",
        "setting log_min_duration_statement",
    ]
    run = restore(operator, backup, environment)
    assert run.status == RunStatus.FAILED
    assert (
        "the exchange would not keep everything that belongs to the database: setting "
        "log_min_duration_statement would be missing: permission denied to set parameter "
        '"log_min_duration_statement"; security label sel would be missing: security label provider '
        '"sel" is not loaded; publication everything would be missing: must be superuser '
        "to create FOR ALL TABLES publication. Put it right, or consent to it and ask again. The "
        "live database was not touched."
    ) in run.summary
    assert sorted(run.result["left_behind"]) == stays
    assert "restore: building" not in log_of(run)
    one = restore(operator, backup, environment, consents=stays[:1])
    assert (one.status, stays[0] in one.summary) == (RunStatus.FAILED, False)

    client, asked = as_role("operator"), {"environment": environment.pk, "reason": "x"}
    page = reverse("backup-restore", args=[backup.pk])
    assert [
        what for what, _ in client.get(page).context["form"].fields["consents"].choices
    ] == stays
    asked |= {
        "typed_name": environment.slug, "how": "replace", "consents": [*stays, "something else"],
    }  # fmt: skip
    assert client.post(page, asked).status_code == 422
    assert client.post(page, asked | {"consents": stays}).status_code == 302
    run = execute(Run.objects.latest("pk"))
    assert run.status == RunStatus.SUCCEEDED, run.summary
    assert sorted(run.result["left_behind"]) == stays

    # What the exchange put aside has them; they would be back. Refused, it stays as it is.
    replaced = ReplacedDatabase.objects.kept().get()
    with psycopg.connect(environment.dsn) as connection:
        connection.execute(f"ALTER DATABASE \"{name}\" SET work_mem = '7MB'".encode())
    assert "publication everything would come back" in undo(replaced, operator).summary
    with superuser() as connection:
        row = connection.execute(
            "SELECT d.datallowconn, s.setconfig FROM pg_database d JOIN pg_db_role_setting s"
            " ON s.setdatabase = d.oid WHERE d.datname = %s",
            [replaced.replaced_name],
        ).fetchone()
    assert row == (False, ["log_min_duration_statement=7"])
    page = reverse("replaced-undo", args=[replaced.pk])
    assert client.post(page, asked | {"consents": stays}).status_code == 302
    run = execute(Run.objects.latest("pk"))
    assert run.status == RunStatus.SUCCEEDED, run.summary


def test_subscription_is_never_copied_and_refused_before_anything_is_built(
    backup, environment, operator, target, as_role
):
    with superuser(target.info.dbname) as connection:
        connection.execute(
            "CREATE SUBSCRIPTION orders CONNECTION 'host=nowhere' PUBLICATION p"
            " WITH (connect = false, slot_name = NONE, enabled = false, create_slot = false)"
        )
    run = restore(operator, backup, environment)
    assert (run.status, "restore: building" in log_of(run)) == (RunStatus.FAILED, False)
    assert "subscription orders would be missing (a copy would receive everything" in run.summary
    check = RestoreCheck.objects.create(backup=backup, target=environment.targets.get())
    check_restore(check)
    assert list(check.data["left_behind"]) == ["subscription orders"]
    seen = as_role("operator").get(reverse("restore-check-result", args=[backup.pk, check.pk]))
    assert "needs your consent to what would stay behind" in seen.text
    assert "Nothing blocks" not in seen.text
    run = restore(operator, backup, environment, consents=["subscription orders"])
    assert run.status == RunStatus.SUCCEEDED, run.summary
    assert "subscription orders" not in belongings_of(environment)
    # The fixture drops the databases.
    replaced = ReplacedDatabase.objects.kept().get()
    with superuser() as connection:
        connection.execute(f'ALTER DATABASE "{replaced.replaced_name}" ALLOW_CONNECTIONS true')
    with superuser(replaced.replaced_name) as connection:
        connection.execute("DROP SUBSCRIPTION orders")
