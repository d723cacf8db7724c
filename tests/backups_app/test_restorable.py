"""Databases whose backup their role could not restore here: told before the dump, with the remedy."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from backups_app.choices import ProofLevel
from backups_app.models import Backup, RestoreCheck
from backups_app.runs import restore_check
from opsconsole.environments.secrets import seal
from opsconsole.runs.choices import RunStatus
from opsconsole.targets.ownership import Ownership, read_ownership
from tests.backups_app.conftest import restore
from tests.conftest import log_of, superuser
from tests.worker import as_worker

pytestmark = pytest.mark.usefixtures("transactional_db")


@pytest.fixture
def owner(environment) -> str:
    return str(conninfo_to_dict(environment.dsn)["user"])


@pytest.fixture
def as_superuser(environment):
    """`as_superuser(statement, ...)` in the target, each time on a session that ends."""

    def execute(*statements: str) -> None:
        with superuser(conninfo_to_dict(environment.dsn)["dbname"]) as connection:
            for statement in statements:
                connection.execute(statement)

    return execute


@pytest.fixture
def stranger(environment):
    """A role that the target's role is no member of."""
    name = "stranger_of_the_database"
    with superuser() as connection:
        connection.execute(f"CREATE ROLE {name}")
    yield name
    for database in (conninfo_to_dict(environment.dsn)["dbname"], "postgres"):
        with superuser(database) as connection:
            connection.execute(f"DROP OWNED BY {name}")
    with superuser() as connection:
        connection.execute(f"DROP ROLE {name}")


check_restore = as_worker()(restore_check.check_restore)


def looked(backup: Backup) -> dict[str, dict]:
    check = RestoreCheck.objects.create(backup=backup, target=backup.target)
    check_restore(check)
    check.refresh_from_db()
    assert not check.error
    return {found["what"]: found for found in check.data["findings"]}


def test_schema_of_the_provider_is_made_as_the_role_s_own_and_said_before(
    as_superuser, owner, target, run_backup, environment, operator
):
    as_superuser(
        "CREATE SCHEMA extensions",
        "CREATE EXTENSION citext SCHEMA extensions",
        f'GRANT USAGE ON SCHEMA extensions TO "{owner}"',
    )
    with superuser() as connection:
        provider = connection.info.user
    target.execute("CREATE TABLE u (e extensions.citext PRIMARY KEY); INSERT INTO u VALUES ('A@b')")
    run = run_backup()
    assert run.status == RunStatus.SUCCEEDED, run.summary
    backup = Backup.objects.get()
    assert backup.proof == ProofLevel.CONTENT
    assert backup.owned == Ownership([["public", owner]], {"extensions": provider})
    roles = looked(backup)["roles"]
    assert roles["is_ok"]
    assert f"will be its own afterwards: extensions (of {provider})" in roles["text"]

    done = restore(operator, backup, environment)
    assert done.status == RunStatus.SUCCEEDED, done.summary
    assert f"the schema extensions is made as this role's own, not {provider}'s" in log_of(done)
    with psycopg.connect(environment.dsn) as connection:
        assert connection.execute("SELECT e FROM u").fetchall() == [("A@b",)]


def test_table_that_could_not_be_given_back_is_told_before_the_dump_until_it_can(
    as_superuser, owner, stranger, run_backup
):
    as_superuser(
        f"CREATE SCHEMA theirs AUTHORIZATION {stranger}",
        f"CREATE TABLE theirs.t (n int); ALTER TABLE theirs.t OWNER TO {stranger}",
        f'GRANT USAGE ON SCHEMA theirs TO "{owner}"; GRANT SELECT ON theirs.t TO "{owner}"',
    )
    run = run_backup()
    assert run.status == RunStatus.FAILED
    assert run.summary.startswith(f"Preflight failed: what belongs to {stranger} in theirs")
    assert f"GRANT {stranger} TO {owner}" in run.summary
    assert not Backup.objects.exists()

    as_superuser(f'GRANT {stranger} TO "{owner}"')
    run = run_backup()
    assert run.status == RunStatus.SUCCEEDED, run.summary
    as_superuser(f'REVOKE {stranger} FROM "{owner}"')
    roles = looked(Backup.objects.get())["roles"]
    assert not roles["is_ok"]
    assert f"GRANT {stranger} TO {owner}" in roles["text"]


def test_owner_who_may_make_nothing_in_the_schema_yet_is_told_before_the_dump(
    as_superuser, owner, stranger, run_backup
):
    as_superuser(
        f"CREATE TABLE theirs (n int); ALTER TABLE theirs OWNER TO {stranger}",
        f'GRANT {stranger} TO "{owner}"',
    )
    run = run_backup()
    assert run.status == RunStatus.FAILED
    assert "permission denied for schema public" in run.summary
    assert "or give the console the address of a superuser" in run.summary
    assert not Backup.objects.exists()


def test_rows_that_row_security_hides_are_told_before_the_dump(
    owner, run_backup, target, environment, operator
):
    target.execute("CREATE TABLE tenant (id int, who text); INSERT INTO tenant VALUES (1, 'a')")
    target.execute(
        "ALTER TABLE tenant ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
        "CREATE POLICY p ON tenant USING (who = current_setting('app.who', true))"
    )
    run = run_backup()
    assert run.status == RunStatus.FAILED
    assert "row security hides rows of public.tenant" in run.summary
    assert f"ALTER ROLE {owner} BYPASSRLS" in run.summary
    assert not Backup.objects.exists()

    with superuser() as connection:
        connection.execute(sql.SQL("ALTER ROLE {} BYPASSRLS").format(sql.Identifier(owner)))
    run = run_backup()
    assert run.status == RunStatus.SUCCEEDED, run.summary
    done = restore(operator, Backup.objects.get(), environment)
    assert done.status == RunStatus.SUCCEEDED, done.summary


def test_extension_that_only_a_superuser_makes_is_tried_and_told_before_the_dump(
    as_superuser, owner, run_backup, backup
):
    as_superuser("CREATE EXTENSION pg_stat_statements")
    run = run_backup()
    assert run.status == RunStatus.FAILED
    assert f"{owner} may not make pg_stat_statements" in run.summary
    assert "permission denied to create extension" in run.summary
    assert "trusted = true" in run.summary
    assert list(Backup.objects.all()) == [backup]

    backup.manifest["extensions"]["pg_stat_statements"] = "1"
    backup.save()
    found = looked(backup)["extensions"]
    assert not found["is_ok"]
    assert "trusted = true" in found["text"]
    with superuser() as connection:
        left = connection.execute(
            "SELECT datname FROM pg_database WHERE datname LIKE '%\\_\\_trial%'"
        )
        assert left.fetchall() == []


def test_function_that_relies_on_search_path_is_named_as_such(as_superuser, target, run_backup):
    as_superuser("CREATE EXTENSION unaccent")
    target.execute(
        "CREATE FUNCTION slug(t text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS"
        " $$ BEGIN RETURN lower(unaccent(t)); END $$;"
        "CREATE TABLE art (title text, slug text GENERATED ALWAYS AS (slug(title)) STORED);"
        "INSERT INTO art (title) VALUES ('Éa')"
    )
    run = run_backup()
    assert run.status == RunStatus.FAILED
    assert "function unaccent(text) does not exist" in run.summary
    assert "ALTER FUNCTION ... SET search_path" in run.summary


def test_where_backups_are_proven_elsewhere_it_is_only_told(
    as_superuser, owner, stranger, run_backup, environment, database, as_role
):
    as_superuser(
        f"CREATE TABLE theirs (n int); ALTER TABLE theirs OWNER TO {stranger}",
        f'GRANT SELECT ON theirs TO "{owner}"',
    )
    scratch = database()
    environment.targets.update(scratch_dsn_encrypted=seal(scratch))
    run = run_backup()
    assert run.status == RunStatus.SUCCEEDED, run.summary
    backup = Backup.objects.get()
    place = f"{conninfo_to_dict(scratch)['user']}@"
    assert backup.proven_on.startswith(place)
    assert place in as_role("viewer").get(backup.get_absolute_url()).text
    assert "says nothing of this server and this role" in looked(backup)["proof"]["text"]
    assert "a restore on this server would be refused: what belongs to" in log_of(run)


MADE = (
    "TABLE kind.x (n int)", "VIEW kind.x AS SELECT 1", "MATERIALIZED VIEW kind.x AS SELECT 1",
    "SEQUENCE kind.x", "FUNCTION kind.x() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "TYPE kind.x AS ENUM ('a')", "TYPE kind.x AS (n int)", "DOMAIN kind.x AS int",
    "COLLATION kind.x (LOCALE = 'C')", "TEXT SEARCH CONFIGURATION kind.x (COPY = simple)",
    "TEXT SEARCH DICTIONARY kind.x (TEMPLATE = simple)",
)  # fmt: skip


def test_every_kind_of_object_has_its_owner_read(as_superuser, stranger, target):
    for what in MADE:
        as_superuser(
            "DROP SCHEMA IF EXISTS kind CASCADE",
            f"CREATE SCHEMA kind AUTHORIZATION {stranger}",
            f"SET ROLE {stranger}",
            f"CREATE {what}",
        )
        owned = read_ownership(target)
        assert ["kind", stranger] in owned.objects, what
        assert owned.schemas == {"kind": stranger}
    as_superuser(
        "DROP SCHEMA kind CASCADE",
        "SELECT lo_create(1)",
        f"ALTER LARGE OBJECT 1 OWNER TO {stranger}",
    )
    assert ["", stranger] in read_ownership(target).objects
    as_superuser("SELECT lo_unlink(1)", "CREATE EXTENSION citext")
    assert stranger not in read_ownership(target).roles
