"""Add, change, test and retire storages."""

from __future__ import annotations

import secrets as random
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.utils.translation import gettext as _

from backups_app import copies, events
from backups_app.models import BackupPolicy, Storage
from backups_app.stores.kinds import Store
from opsconsole.access.models import User
from opsconsole.access.permissions import authorize
from opsconsole.access.places import CONSOLE
from opsconsole.environments.models import Application
from opsconsole.environments.secrets import seal
from opsconsole.events import recording as audit
from opsconsole.events.recording import fields_of
from opsconsole.exceptions import AdapterError, Kind, Refused
from opsconsole.work import services as work
from opsconsole.work.registry import work_key

FIELDS = ["name", "url", "access_key", "is_shared"]
TEST = work_key("backups_app.test_storage")


def storage_values(storage: Storage) -> dict[str, Any]:
    """Its settings as text, for the audit trail; none of a new one."""
    if storage.pk is None:
        return {}
    names = sorted(storage.applications.values_list("name", flat=True))
    return fields_of(storage, FIELDS) | {"applications": ", ".join(names)}


def save_storage(
    *,
    actor: User,
    storage: Storage,
    before: dict[str, Any],
    secret: str = "",
    applications: Iterable[Application] | None = None,
) -> Storage:
    """Save a storage and have a worker test it.

    A non-empty secret replaces its present one and is kept encrypted. `applications` are those that
    it is offered to, if it is not to all; None keeps them. Raises Refused (conflict) when it would
    no longer be offered to one whose policy uses it.
    """
    authorize(actor, "settings.edit", CONSOLE)
    with transaction.atomic():
        event = events.STORAGE_CHANGED if storage.pk else events.STORAGE_ADDED
        if secret:
            storage.secret_encrypted = seal(secret)
        storage.tested_at, storage.test_error = None, ""
        storage.save()
        if applications is not None:
            storage.applications.set(applications)
        _require_offered_to_users(storage)
        audit.record(
            event,
            actor=actor,
            about=storage,
            data=events.StorageChanged(
                before=before, after=storage_values(storage), secret_changed=bool(secret)
            ),
        )
        _add_test(actor, storage)
    return storage


def _require_offered_to_users(storage: Storage) -> None:
    for policy in _users_of(storage):
        offered = Storage.objects.offered_to(policy.environment.application)
        if not offered.filter(pk=storage.pk).exists():
            raise Refused(
                _("The policy of %(where)s uses it: offer it to that application too.")
                % {"where": policy.environment},
                field="applications",
            )


def require_offered(application: Application, chosen: Iterable[Storage]) -> None:
    """Raise Refused (invalid) unless every storage is offered to the application.

    Call it in the transaction of what uses them: until its end they are not offered less.
    """
    ids = {storage.pk for storage in chosen}
    rows = Storage.objects.select_for_update(of=("self",)).filter(pk__in=ids).order_by("pk")
    offered = set(Storage.objects.offered_to(application).values_list("pk", flat=True))
    for storage in rows:
        if storage.pk not in offered:
            raise Refused(
                _("The storage %(storage)s is not offered to %(application)s.")
                % {"storage": storage, "application": application},
                kind=Kind.INVALID,
                field="storage",
            )


def _users_of(storage: Storage) -> QuerySet[BackupPolicy]:
    used = BackupPolicy.objects.filter(storage=storage) | BackupPolicy.objects.filter(
        copies=storage
    )
    return used.select_related("environment__application").distinct()


def request_test(*, actor: User, storage: Storage) -> None:
    """Have a worker write, read back and delete; until it did, there is no result."""
    authorize(actor, "settings.edit", CONSOLE)
    with transaction.atomic():
        Storage.objects.filter(pk=storage.pk).update(tested_at=None, test_error="")
        _add_test(actor, storage)


def _add_test(actor: User, storage: Storage) -> None:
    event = audit.record(events.STORAGE_TESTED, actor=actor, about=storage)
    work.add(
        TEST,
        f"{TEST}:{event.pk}",
        {"storage": storage.pk, "object": new_test_object()},
        about=storage.name,
    )


def retire_storage(*, actor: User, storage: Storage) -> None:
    """Offer a storage no longer; what lies there stays restorable. Refused while a policy uses it."""
    authorize(actor, "settings.edit", CONSOLE)
    if not storage.url:
        raise Refused(_("The console's own backups folder cannot be retired."))
    if user := _users_of(storage).first():
        raise Refused(
            _("The policy of %(where)s uses it: choose another storage there first.")
            % {"where": user.environment}
        )
    with transaction.atomic():
        Storage.objects.filter(pk=storage.pk).update(archived_at=Now())
        audit.record(events.STORAGE_RETIRED, actor=actor, about=storage)


def new_test_object() -> str:
    """The key of an object that no other test uses."""
    return f"opsconsole-test-{random.token_hex(8)}"


def try_storage(storage: Storage, key: str) -> str:
    """On a worker: write, read back and delete a small object; returns the problem, "" for none.

    The same key again makes up for a try that was cut short and may have left the object.
    """
    data = random.token_bytes(4096)
    try:
        found = _write_and_read(copies.store_of(storage), key, data)
    except AdapterError as error:
        return str(error)
    return "" if found == data else _("what was read back is not what was written")


def _write_and_read(store: Store, key: str, data: bytes) -> bytes:
    """What is read of an object after it was written; it is deleted, read or not."""
    try:
        with store.writer(key) as file:
            file.write(data)
        found = b"".join(store.read(key))
    except AdapterError:
        with suppress(AdapterError):
            store.delete(key)
        raise
    store.delete(key)
    return found


def record_test(storage: Storage, problem: str) -> None:
    Storage.objects.filter(pk=storage.pk).update(tested_at=Now(), test_error=problem[:500])
