"""Take in an archive that was made elsewhere: unpack it, store it in the policy's form, list it."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from django.utils import timezone

from backups_app import copies
from backups_app.archives.archive import HashingReader, Manifest, Written, write_archive
from backups_app.archives.foreign import ForeignArchive, Listing, read_listing, unpack_foreign
from backups_app.choices import BackupReason
from backups_app.models import Backup, BackupPolicy, Storage
from backups_app.parameters import ImportParameters
from backups_app.runs import building, quarantine
from backups_app.runs.results import WithBackup
from backups_app.runs.taking import form_of, keep_archive
from backups_app.services import consent
from backups_app.stores.kinds import Store
from opsconsole.environments import secrets
from opsconsole.environments.survey import tools_for
from opsconsole.exceptions import StepFailed
from opsconsole.runs.step import Estimate, RunContext
from opsconsole.sentences import say


def discard_upload(asked: ImportParameters) -> None:
    """Delete an uploaded archive. One that an admin put into a storage is theirs to delete."""
    if asked.is_upload:
        copies.store_of(Storage.objects.get(pk=asked.storage)).delete(asked.key)


def import_archive(context: RunContext[ImportParameters, WithBackup]) -> Backup:
    """Bring the run's archive into the policy's storage, as a backup that is not proven yet.

    Raises AdapterError when it is no archive of pg_dump, StepFailed when this server could not
    restore it, and Refused when it holds another environment's data and who asked may not take
    that out; nothing is stored then.
    """
    storage, key = Storage.objects.get(pk=context.parameters.storage), context.parameters.key
    if not context.parameters.is_upload:
        consent.require_archive(context.run.requested_by, context.environment, storage, key)
    scratch = building.scratch_folder()
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    context.log(f"import: reading {key} from {storage}")
    with tempfile.TemporaryDirectory(prefix="import-", dir=scratch) as name:
        stored = HashingReader(copies.store_of(storage).read(key))
        archive = unpack_foreign(
            stored,
            Path(name),
            identities=secrets.backup_identities(),
            on_progress=lambda _count: context.check(),
        )
        consent.require_bytes(context.run.requested_by, context.environment, stored.sha256)
        listing = _listing(context, archive)
        policy = BackupPolicy.objects.of(context.environment)
        form = replace(form_of(policy), format=archive.format)

        def write(store: Store, new_key: str) -> tuple[Manifest, Written]:
            progress = Estimate(context, _size(archive)).update
            with store.writer(new_key) as file:
                written = write_archive(archive.chunks(), form, file, progress)
            described = _manifest(context, listing, new_key, written)
            return form.as_dict() | described, written

        return keep_archive(context, BackupReason.IMPORTED, policy.storage, form, write)


def _listing(context: RunContext, archive: ForeignArchive) -> Listing:
    place = context.dsn
    if quarantine.is_set(context.run.target):
        place = quarantine.dsn_of(context)
    with context.connect("import", database=place.maintenance_database, on=place) as connection:
        major = connection.info.server_version // 10000
    listing = read_listing(
        tools_for(place, major),
        archive,
        dsn=place,
        session=building.tool_session(context, "import"),
    )
    if not listing.client_version:
        raise StepFailed(say("the archive does not say which pg_dump made it"))
    context.log(
        f"import: {archive.format} archive of {listing.database or 'a database'}, made "
        f"{listing.dumped_at} by pg_dump {listing.client_version} from PostgreSQL "
        f"{listing.server_version}",
        "ok",
    )
    return listing


def _size(archive: ForeignArchive) -> int:
    if archive.format == "directory":
        return sum(path.stat().st_size for path in archive.path.iterdir())
    return archive.path.stat().st_size


def _manifest(
    context: RunContext[ImportParameters], listing: Listing, key: str, written: Written
) -> Manifest:
    return {
        "archive": key,
        "environment": context.environment.path,
        "taken_at": timezone.now().isoformat(),
        "imported": {
            "by": context.run.asked_by,
            "from": context.parameters.name or context.parameters.key,
            "dumped_at": listing.dumped_at,
        },
        "server": {"version": listing.server_version, "database": listing.database},
        "extensions": dict.fromkeys(listing.extensions, ""),
        "owners": [],
        "event_triggers": [
            {"name": name, "schema": "", "function": ""} for name in listing.event_triggers
        ],
        "client": listing.client_version,
        "size_bytes": written.size_bytes,
        "raw_bytes": written.raw_bytes,
        "sha256": written.sha256,
        "content": None,
        "migrations": [],
        "proof": "checksum",
    }
