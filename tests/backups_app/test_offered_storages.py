"""A storage is shared only where an admin of everything says so."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from django.test import Client
from django.urls import reverse

from backups_app import services
from backups_app.forms import ImportForm, PolicyForm
from backups_app.models import BackupPolicy, Storage
from backups_app.services import policies, storages
from opsconsole.access.models import Membership, User
from opsconsole.environments.models import Application, Environment, Target
from opsconsole.events.models import AuditEvent
from opsconsole.exceptions import Refused


@pytest.fixture
def target(db) -> Target:
    application = Application.objects.create(slug="shop", name="Shop")
    environment = Environment.objects.create(
        application=application, slug="staging", name="Staging", position=1
    )
    return Target.objects.create(environment=environment, dsn_reference="env:NOWHERE")


@pytest.fixture
def its_admin(target) -> User:
    user = User.objects.create_user("scoped")
    Membership.objects.create(user=user, role="admin", application=target.environment.application)
    return user


@pytest.fixture
def storage(admin, tmp_path) -> Storage:
    return storages.save_storage(
        actor=admin, storage=Storage(name="Payroll", url=f"file://{tmp_path}"), before={}
    )


def uses(its_admin: User, target: Target, storage: Storage) -> list[str]:
    """The ways in which an admin of the application may use the storage."""
    policy = BackupPolicy.objects.of(target.environment)
    save = partial(policies.save_policy, actor=its_admin, policy=policy, before={})
    place = partial(
        services.import_from_storage,
        actor=its_admin,
        target=target,
        key="wages.dump",
        idempotency_key="k" * 32,
    )
    found = []
    if is_done(lambda: save(copies=[storage])):
        found.append("copy")
    save(copies=[])
    policy.storage = storage
    if is_done(lambda: save(copies=[])):
        found.append("first")
    if is_done(lambda: place(storage=storage)):
        found.append("import")
    return found


def is_done(act: Callable[[], object]) -> bool:
    """Whether the act is done, and not refused for a storage that is not offered."""
    try:
        act()
    except Refused as refusal:
        if refusal.field != "storage" or "is not offered to Shop" not in str(refusal):
            raise
        return False
    return True


def offered(target: Target, storage: Storage) -> list[bool]:
    """Whether the forms of a policy and of an import offer it."""
    form = PolicyForm(instance=BackupPolicy.objects.of(target.environment))
    archive = ImportForm(application=target.environment.application)
    fields = (form.fields["storage"], form.fields["copies"], archive.fields["storage"])
    return [storage in field.queryset for field in fields]


@pytest.mark.parametrize("whose", ["nobody's", "another's", "its", "everybody's"])
def test_storage_serves_those_to_whom_it_is_offered(admin, its_admin, target, storage, whose):
    other = Application.objects.create(slug="payroll", name="Payroll")
    storage.is_shared = whose == "everybody's"
    to = {"another's": [other], "its": [target.environment.application]}.get(whose, [])
    storages.save_storage(actor=admin, storage=storage, before={}, applications=to)
    is_theirs = whose in {"its", "everybody's"}
    assert offered(target, storage) == [is_theirs] * 3
    expected = ["copy", "first", "import"] if is_theirs else []
    assert uses(its_admin, target, storage) == expected
    # The console's own folder is everybody's.
    assert offered(target, Storage.objects.builtin()) == [True] * 3


def test_storage_that_a_policy_uses_stays_offered_to_it(admin, its_admin, target, storage):
    client = Client()
    client.force_login(admin)
    address = reverse("storage-edit", args=[storage.pk])
    application = target.environment.application
    given = {"name": "Payroll", "url": storage.url}
    answer = client.post(address, given | {"applications": [application.pk]})
    assert answer.status_code == 302
    event = AuditEvent.objects.filter(action="storage.changed").latest("id")
    assert ("applications", "", "Shop") in event.changes()
    assert "Shop" in client.get(reverse("settings")).content.decode()
    policy = BackupPolicy.objects.of(target.environment)
    policies.save_policy(actor=its_admin, policy=policy, copies=[storage], before={})
    answer = client.post(address, given)
    assert (answer.status_code, "uses it" in answer.content.decode()) == (409, True)
    assert Storage.objects.offered_to(application).filter(pk=storage.pk).exists()
    assert client.post(address, given | {"is_shared": "on"}).status_code == 302
