"""Import archives that were made elsewhere."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from contextlib import suppress

from django.conf import settings
from django.db import transaction
from django.utils.text import get_valid_filename
from django.utils.translation import gettext as _

from backups_app.archives.foreign import may_be_archive
from backups_app.models import Backup, Storage
from backups_app.parameters import ImportParameters
from backups_app.services.consent import require_archive
from backups_app.services.storages import require_offered
from backups_app.stores.kinds import canonical_key
from backups_app.stores.local import LocalStore
from backups_app.stores.places import place_of
from opsconsole.access.models import User
from opsconsole.access.permissions import authorize
from opsconsole.environments.models import Target
from opsconsole.exceptions import AdapterError, Kind, Refused
from opsconsole.runs import services as runs
from opsconsole.runs.models import Run

INCOMING = "incoming"


def import_upload(
    *,
    actor: User,
    target: Target,
    name: str,
    chunks: Iterable[bytes],
    idempotency_key: str,
    reason: str = "",
) -> Run:
    """Keep an uploaded archive in the console's own folder and queue its import.

    The run deletes the upload, however it ends. Raises Refused (invalid) for what is plainly no
    archive, (no room) when it does not fit; nothing is kept then.
    """
    authorize(actor, "backup.import", target.environment)
    store = LocalStore(settings.BACKUPS_FOLDER)
    key = f"{INCOMING}/{uuid.uuid4().hex}-{_file_name(name)}"
    run = None
    try:
        _keep(store, key, chunks)
        run = _request(
            actor,
            target,
            idempotency_key,
            reason,
            {
                "storage": Storage.objects.builtin().pk,
                "key": key,
                "name": name,
                "is_upload": True,
            },
        )
    finally:
        if run is None or run.parameters.get("key") != key:
            with suppress(AdapterError):
                store.delete(key)
    return run


def import_from_storage(
    *,
    actor: User,
    target: Target,
    storage: Storage,
    key: str,
    idempotency_key: str,
    reason: str = "",
) -> Run:
    """Queue the import of an archive that somebody put into a storage; it stays there.

    Raises Refused (invalid) for a storage that is not offered to the application and for a key that
    is not the canonical one or leads out of the storage, (forbidden) for an archive of another
    environment whose data the actor may not take out, and (conflict) for an upload and for an
    archive that the console lists: that one is restored.
    """
    authorize(actor, "backup.import", target.environment)
    with transaction.atomic():
        require_offered(target.environment.application, [storage])
    try:
        require_archive(actor, target.environment, storage, canonical_key(key))
        uploads = place_of(Storage.objects.builtin().address, INCOMING)
        is_upload = place_of(storage.address, key).lies_in(uploads)
    except AdapterError as error:
        raise Refused(str(error), kind=Kind.INVALID, field="path") from None
    if is_upload:
        raise Refused(_("This was uploaded for an import of its own."), field="path")
    if listed := Backup.objects.filter(key=key).first():
        raise Refused(
            _("This is %(backup)s: restore it instead.") % {"backup": listed}, field="path"
        )
    return _request(actor, target, idempotency_key, reason, {"storage": storage.pk, "key": key})


def _request(
    actor: User, target: Target, idempotency_key: str, reason: str, parameters: dict
) -> Run:
    return runs.request_run(
        actor=actor,
        target=target,
        reason=reason,
        idempotency_key=idempotency_key,
        parameters=ImportParameters(**parameters),
    )


def _file_name(name: str) -> str:
    try:
        return get_valid_filename(name)[-100:]
    except ValueError:
        return "archive"


def _keep(store: LocalStore, key: str, chunks: Iterable[bytes]) -> None:
    try:
        with store.writer(key) as file:
            for number, chunk in enumerate(chunks):
                if number == 0 and not may_be_archive(chunk):
                    raise Refused(
                        _(
                            "This is neither a custom archive (pg_dump -Fc) nor a packed directory "
                            "archive (pg_dump -Fd, then tar). Plain SQL is never run: make an "
                            "archive with pg_dump -Fc."
                        ),
                        kind=Kind.INVALID,
                        field="file",
                    )
                file.write(chunk)
    except AdapterError as error:
        raise Refused(
            _("The archive cannot be kept: %(why)s") % {"why": error},
            kind=Kind.NO_ROOM,
            field="file",
        ) from error
