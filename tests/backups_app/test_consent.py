"""Data leaves an environment only with its own admins, whatever somebody may do where it goes."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse

from backups_app import services
from backups_app.archives.encryption import new_identity, public_key
from backups_app.models import Backup, BackupPolicy
from backups_app.services import policies
from opsconsole.access.models import Membership, User
from opsconsole.exceptions import Kind, Refused
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.models import Run
from opsconsole.targets import server
from tests.backups_app.conftest import execute, restore
from tests.worker import recovery_kit

pytestmark = pytest.mark.usefixtures("transactional_db")
NAMES_THE_SOURCE = "Only an admin of Shop staging may take it out"


@pytest.fixture
def other(make_environment):
    return make_environment("development", position=2)


@pytest.fixture
def its_admin(other):
    """Admin of the other environment, who only looks at the one that the backup is of."""
    user = User.objects.create_user("its-admin", password="pw")
    Membership.objects.create(user=user, role="admin", environment=other)
    Membership.objects.create(user=user, role="viewer")
    return user


def client_of(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


@pytest.mark.parametrize("is_protected", [True, False])
@pytest.mark.parametrize("new_database", ["", "taken_out"])
def test_restore_elsewhere_takes_an_admin_of_where_the_data_is_from(
    backup, other, its_admin, is_protected, new_database
):
    backup.environment.is_protected = is_protected
    backup.environment.save()
    with pytest.raises(Refused, match=NAMES_THE_SOURCE) as refusal:
        restore(its_admin, backup, other, consents_unmasked=True, new_database=new_database)
    assert refusal.value.kind is Kind.FORBIDDEN
    assert not Run.objects.filter(kind="restore").exists()


def test_masking_script_is_the_consent(backup, other, its_admin, set_policy):
    set_policy(masking_sql="DELETE FROM targets")
    run = restore(its_admin, backup, other)
    assert run.status == RunStatus.SUCCEEDED, run.summary


def requested(actor, backup: Backup, environment) -> Run:
    return services.request_restore(
        actor=actor,
        backup=backup,
        target=environment.targets.get(),
        idempotency_key="k" * 32,
        typed_name=environment.slug,
    )


def test_script_that_is_gone_when_the_worker_begins_is_no_consent(
    backup, other, its_admin, set_policy
):
    set_policy(masking_sql="DELETE FROM targets")
    run = requested(its_admin, backup, other)
    set_policy(masking_sql="")
    summary = execute(run).summary
    assert summary.startswith("Refused: ")
    assert NAMES_THE_SOURCE in summary


def test_script_that_is_gone_before_the_exchange_is_no_consent(
    backup, other, its_admin, set_policy, monkeypatch
):
    set_policy(masking_sql="DELETE FROM targets")
    run, create = requested(its_admin, backup, other), server.create_database

    def create_and_unmask(*arguments, **named):
        set_policy(masking_sql="")
        return create(*arguments, **named)

    monkeypatch.setattr(server, "create_database", create_and_unmask)
    done = execute(run)
    assert (done.status, NAMES_THE_SOURCE in done.summary) == (RunStatus.FAILED, True)
    assert not done.replaced.exists()


def test_page_offers_only_what_is_not_refused(backup, other, its_admin, admin, set_policy):
    address = reverse("backup-restore", args=[backup.pk])

    def offered(user: User) -> list[str]:
        page = client_of(user).get(address)
        return [label for _pk, label in page.context["form"].fields["environment"].choices]

    assert sorted(offered(admin)) == ["Shop development", "Shop staging"]
    assert offered(its_admin) == []
    assert NAMES_THE_SOURCE in client_of(its_admin).get(address).text
    asked = {
        "environment": other.pk, "reason": "x", "typed_name": "development", "how": "replace",
    }  # fmt: skip
    answer = client_of(its_admin).post(address, asked)
    assert (answer.status_code, NAMES_THE_SOURCE in answer.text) == (403, True)
    set_policy(masking_sql="DELETE FROM targets")
    assert offered(its_admin) == ["Shop development"]


def test_kit_with_the_keys_takes_an_admin_of_everything(
    run_backup, set_policy, other, its_admin, admin
):
    recipients = public_key(new_identity())
    set_policy(recipients=recipients)
    run_backup()
    set_policy(where=other, recipients=recipients)
    run_backup(actor=admin, target=other.targets.get())
    assert recovery_kit(actor=its_admin, environment=other, with_key=False)
    assert recovery_kit(actor=admin, environment=other, with_key=True)
    with pytest.raises(Refused) as refusal:
        recovery_kit(actor=its_admin, environment=other, with_key=True)
    assert refusal.value.kind is Kind.FORBIDDEN


def test_policy_is_edited_by_its_own_admins(environment, its_admin, set_policy):
    policy = set_policy(masking_sql="DELETE FROM targets")
    policy.masking_sql = ""
    with pytest.raises(Refused) as refusal:
        policies.save_policy(actor=its_admin, policy=policy, copies=[], before={})
    assert refusal.value.kind is Kind.FORBIDDEN
    assert BackupPolicy.objects.get().masking_sql == "DELETE FROM targets"
    address = reverse("backup-policy", args=["shop", "staging"])
    assert client_of(its_admin).get(address).status_code == 403
