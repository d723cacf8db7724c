"""What a restore would meet and leave behind, and data that is masked before it goes elsewhere."""

from __future__ import annotations

import uuid

import psycopg
import pytest
from django.urls import reverse

from backups_app import services
from backups_app.models import Backup, RestoreCheck
from opsconsole.environments.secrets import seal
from opsconsole.exceptions import Kind, Refused
from opsconsole.runs.choices import RunStatus
from tests.backups_app.conftest import restore
from tests.worker import check_restore, resolve_dsn

pytestmark = pytest.mark.usefixtures("transactional_db")


def checked(backup: Backup, environment) -> RestoreCheck:
    check = RestoreCheck.objects.create(backup=backup, target=environment.targets.get())
    check_restore(RestoreCheck.objects.get(pk=check.pk))
    check.refresh_from_db()
    assert check.is_done
    return check


def finding(check: RestoreCheck, what: str) -> dict:
    return next(f for f in check.data["findings"] if f["what"] == what)


def test_check_counts_what_was_written_since_per_table(backup, environment, target):
    target.execute("INSERT INTO users (name) SELECT 'later' FROM generate_series(1, 7)")
    target.execute("UPDATE targets SET amount = 0 WHERE id <= 5")
    target.execute("SELECT pg_stat_force_next_flush()")
    target.execute("SELECT 1")
    check = checked(backup, environment)
    assert not check.is_blocked
    assert check.data["losses"] == [
        {"table": "public.users", "rows": 200, "written": 7},
        {"table": "public.targets", "rows": 1000, "written": 5},
    ]


def test_check_of_an_untouched_database_loses_nothing(backup, environment):
    assert checked(backup, environment).data["losses"] == []


def test_check_after_another_database_took_the_name_does_not_pretend_to_know(
    backup, environment, operator
):
    restore(operator, backup, environment)
    assert checked(backup, environment).data["losses"] is None


def test_check_names_a_missing_extension_owner_and_version(backup, environment):
    owned = {"objects": [["public", "nobody_here"]], "schemas": {}}
    backup.manifest |= {"extensions": {"postgis": "3"}, "owned": owned, "client": "99.1"}
    backup.save()
    check = checked(backup, environment)
    assert check.is_blocked
    assert finding(check, "extensions")["text"] == "not installed on this server: postgis"
    assert "nobody_here" in finding(check, "roles")["text"]
    assert "needs an archive of its own version or older" in finding(check, "versions")["text"]


def test_check_of_a_role_without_rights_says_what_to_do(backup, environment):
    from tests.conftest import superuser

    name = psycopg.conninfo.conninfo_to_dict(environment.dsn)["user"]
    with superuser() as connection:
        connection.execute(f'ALTER ROLE "{name}" NOCREATEDB')
    text = finding(checked(backup, environment), "rights")["text"]
    assert f'ALTER ROLE "{name}" CREATEDB' in text
    assert "restore into another server" in text


def test_check_of_a_server_that_is_away_says_so(backup, environment):
    environment.targets.update(dsn_encrypted=seal("postgresql://x:y@127.0.0.1:1/z"))
    assert "refused" in checked(backup, environment).error.lower()


@pytest.fixture
def protected(backup, make_environment):
    """A backup of a protected environment, and another environment to restore it into."""
    backup.environment.is_protected = True
    backup.environment.save()
    return backup, make_environment("development", position=2)


def test_protected_data_goes_elsewhere_masked(protected, set_policy, operator):
    backup, other = protected
    set_policy(masking_sql="UPDATE users SET name = 'user ' || id; DELETE FROM targets;")
    run = restore(operator, backup, other)
    assert run.status == RunStatus.SUCCEEDED, run.summary
    with psycopg.connect(other.dsn) as connection:
        assert connection.execute("SELECT count(*) FROM targets").fetchone() == (0,)


def test_failing_masking_script_swaps_nothing_in(protected, set_policy, operator):
    backup, other = protected
    set_policy(masking_sql="DELETE FROM targets; UPDATE nothing SET x = 1;")
    run = restore(operator, backup, other)
    assert run.status == RunStatus.FAILED
    assert "the masking script failed: 42P01" in run.summary
    with psycopg.connect(other.dsn) as connection:
        assert connection.execute("SELECT count(*) FROM targets").fetchone() == (1000,)


def test_masking_script_does_not_touch_a_restore_into_its_own_environment(
    protected, set_policy, operator
):
    backup, _other = protected
    set_policy(masking_sql="DELETE FROM targets")
    run = restore(operator, backup, backup.environment)
    assert run.status == RunStatus.SUCCEEDED, run.summary
    with _connect(backup) as connection:
        assert connection.execute("SELECT count(*) FROM targets").fetchone() == (1000,)


def _connect(backup: Backup) -> psycopg.Connection:
    return psycopg.connect(resolve_dsn(backup.target).conninfo(application_name="test"))


def test_without_a_masking_script_an_admin_has_to_consent(protected, operator, admin):
    backup, other = protected
    with pytest.raises(Refused) as refusal:
        restore(operator, backup, other, consents_unmasked=True)
    assert refusal.value.kind is Kind.FORBIDDEN
    with pytest.raises(Refused) as refusal:
        restore(admin, backup, other)
    assert (refusal.value.kind, "an admin has to consent" in str(refusal.value)) == (
        Kind.INVALID,
        True,
    )
    made = services.request_restore(
        actor=admin,
        backup=backup,
        target=other.targets.get(),
        typed_name="development",
        consents_unmasked=True,
        idempotency_key=uuid.uuid4().hex,
    )
    assert made.status == RunStatus.QUEUED


@pytest.mark.parametrize(
    ("environment_asked", "status", "said"),
    [
        ("999999", 422, "Restore into: Select a valid choice."),
        ("", 422, "Restore into: This field"),
    ],
)
def test_refused_look_is_an_error_that_htmx_puts_into_the_page(
    backup, as_role, environment_asked, status, said
):
    look = reverse("restore-check", args=[backup.pk])
    client, fields = as_role("operator"), {"environment": environment_asked}
    part = client.post(look, fields, headers={"HX-Request": "true"})
    assert (part.status_code, part["HX-Reswap"], said in part.content.decode()) == (
        status, "innerHTML", True,
    )  # fmt: skip
    assert "<html" not in part.content.decode()
    page = client.post(look, fields)
    assert (page.status_code, "<html" in page.content.decode()) == (status, True)


def test_look_that_nobody_can_be_asked_for_is_told_in_the_page(
    backup, environment, as_role, broker
):
    broker.away = True
    answer = as_role("operator").post(
        reverse("restore-check", args=[backup.pk]),
        {"environment": environment.pk},
        headers={"HX-Request": "true"},
    )
    assert (answer.status_code, "<html" in answer.content.decode()) == (503, False)
    assert "the broker does not answer" in answer.content.decode()
