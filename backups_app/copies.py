"""Where the copies of a backup lie: open, read, write, check, copy and delete them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db.models.functions import Now

from backups_app.archives.archive import HashingWriter, read_archive
from backups_app.exceptions import ArchiveCorrupt, ObjectMissing
from backups_app.models import Backup, BackupCopy, BackupPolicy, Storage
from backups_app.models.backup import CopyState
from backups_app.stores.kinds import Credentials, Store, Writer
from backups_app.stores.opening import open_store, require_callable, require_elsewhere
from opsconsole.environments import secrets
from opsconsole.environments.calling import call_policy
from opsconsole.exceptions import AdapterError, StepFailed
from opsconsole.formats import size
from opsconsole.runs.models import Run
from opsconsole.runs.patience import patiently
from opsconsole.runs.step import RunContext
from opsconsole.sentences import say

MANIFEST = ".json"
GLOBALS = ".globals.sql"
BESIDE = (MANIFEST, GLOBALS, GLOBALS + ".age")


def store_of(storage: Storage) -> Store:
    """Open a storage, on a worker.

    Raises AdapterError for a bad URL, an unreadable secret, and a place where nothing may be kept.
    """
    policy = call_policy()
    require_callable(storage.address, policy)
    if storage.url:
        home, backups = settings.OPSCONSOLE_HOME.path, settings.BACKUPS_FOLDER
        require_elsewhere(storage.url, home, backups)
    secret = secrets.unseal(storage.secret_encrypted) if storage.secret_encrypted else ""
    return open_store(storage.address, Credentials(storage.access_key, secret), policy)


def require_space(folder: Path, needed: int, what: str) -> None:
    """Raise StepFailed when a folder's disk cannot hold so many bytes."""
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise StepFailed(
            say(
                "%(free)s are free in %(what)s and up to %(needed)s may be needed: free some space and "
                "run again",
                free=size(free),
                what=what,
                needed=size(needed),
            )
        )


def write_manifest(store: Store, key: str, manifest: dict[str, Any]) -> None:
    with store.writer(key + MANIFEST) as file:
        file.write(json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False).encode())


def delete_objects(store: Store, key: str) -> None:
    """Remove an archive and all that lies beside it. The archive goes first."""
    for name in (key, *(key + suffix for suffix in BESIDE)):
        store.delete(name)


def reader(context: RunContext, backup: Backup) -> Callable[[Writer], None]:
    """A function that writes the archive, as pg_dump made it, to what it is given.

    It reads from the first copy whose bytes are whole, and marks those found otherwise. Raises
    ArchiveCorrupt or ObjectMissing when it is known that no copy is whole; any other error says
    nothing about the archive.
    """

    def read_into(taker: Writer) -> None:
        _read_whole(_whole_copy(context, backup), backup, taker)

    return read_into


def _read_whole(copy: BackupCopy, backup: Backup, taker: Writer) -> None:
    try:
        read_archive(
            _bytes_of(copy),
            backup.form,
            taker,
            sha256=backup.sha256,
            identities=secrets.backup_identities() if backup.form.recipients else (),
        )
    except ArchiveCorrupt as error:
        _mark(copy, CopyState.CORRUPT, str(error))
        raise
    _mark(copy, CopyState.STORED)


def _whole_copy(context: RunContext, backup: Backup) -> BackupCopy:
    """The first copy that hashes to the recorded checksum. One alone is hashed while it is read."""
    candidates = _candidates(backup)
    return candidates[0] if len(candidates) == 1 else _first_whole(context, backup, candidates)


def _candidates(backup: Backup) -> list[BackupCopy]:
    """The copies that may be whole, those that could not be checked the last time at the end."""
    found = backup.copies.filter(state__in=CopyState.readable())
    return sorted(
        found.select_related("storage", "backup"),
        key=lambda copy: copy.state == CopyState.UNREACHABLE,
    )


def _first_whole(
    context: RunContext, backup: Backup, candidates: Iterable[BackupCopy]
) -> BackupCopy:
    for copy in candidates:
        if not (problem := check_copy(copy)):
            return copy
        what = "could not be checked" if copy.is_unknown else "is not whole"
        context.log(f"  the copy in {copy.storage} {what}: {problem}", "hm")
    unknown = backup.copies.filter(state=CopyState.UNREACHABLE).select_related("storage").first()
    if unknown:
        raise StepFailed(
            say(
                "no copy of the backup could be read: %(storage)s: %(problem)s",
                storage=unknown.storage,
                problem=unknown.problem,
            )
        )
    raise ArchiveCorrupt("no copy of the backup is whole")


def check_copy(copy: BackupCopy) -> str:
    """Hash one copy and record what it is; returns what is wrong, or ""."""
    digest = hashlib.sha256()
    try:
        for chunk in _bytes_of(copy):
            digest.update(chunk)
    except AdapterError as error:
        return str(error)
    if digest.hexdigest() == copy.backup.sha256:
        _mark(copy, CopyState.STORED)
    else:
        _mark(
            copy, CopyState.CORRUPT, "the archive is corrupt: its checksum is not the recorded one"
        )
    return copy.problem


def _bytes_of(copy: BackupCopy) -> Iterator[bytes]:
    """What is stored of a copy; that it is not there, or could not be read, is marked on it."""
    try:
        yield from store_of(copy.storage).read(copy.backup.key)
    except ObjectMissing as error:
        _mark(copy, CopyState.MISSING, str(error))
        raise
    except AdapterError as error:
        _mark(copy, CopyState.UNREACHABLE, str(error))
        raise


def _mark(copy: BackupCopy, state: CopyState, problem: str = "") -> None:
    """Record what was found, in the database and in `copy`. One being deleted stays that."""
    copy.state, copy.problem = state, problem[:500]
    looked = {} if state == CopyState.UNREACHABLE else {"checked_at": Now()}
    kept = BackupCopy.objects.filter(pk=copy.pk).exclude(state__in=CopyState.going())
    patiently(lambda: kept.update(state=state, problem=copy.problem, **looked))


def _set(copy: BackupCopy, state: CopyState, **fields: object) -> None:
    row = BackupCopy.objects.filter(pk=copy.pk)
    patiently(lambda: row.update(state=state, **fields))


def copy_to(context: RunContext, backup: Backup, storage: Storage) -> None:
    """Copy the stored bytes, the manifest and the globals to another storage; checked by reading.

    Raises AdapterError; nothing is then left there, and the copy's row says what happened.
    """
    copy = _copy_in(backup, storage)
    _set(copy, CopyState.COPYING, problem="")
    others = [one for one in _candidates(backup) if one.pk != copy.pk]
    source = store_of(_first_whole(context, backup, others).storage)
    destination = store_of(storage)
    try:
        with destination.writer(backup.key) as file:
            hashing = HashingWriter(file)
            for chunk in source.read(backup.key):
                context.check()
                hashing.write(chunk)
            if hashing.sha256 != backup.sha256:
                raise AdapterError("the bytes changed while they were copied")
        for suffix in BESIDE:
            _copy_small(source, destination, backup.key + suffix)
    except BaseException as error:
        with suppress(AdapterError):
            delete_objects(destination, backup.key)
        _set(copy, CopyState.FAILED, problem=str(error)[:500])
        raise
    _set(copy, CopyState.STORED, stored_at=Now())
    copy.refresh_from_db()
    if problem := check_copy(copy):
        raise AdapterError(problem)
    context.log(f"backup: copied to {storage}, read back, checksum equal", "ok")


def _copy_in(backup: Backup, storage: Storage) -> BackupCopy:
    rows = BackupCopy.objects
    copy, _made = patiently(lambda: rows.get_or_create(backup=backup, storage=storage))
    return copy


def _copy_small(source: Store, destination: Store, key: str) -> None:
    if not any(stored.key == key for stored in source.list(key.rpartition("/")[0])):
        return
    with destination.writer(key) as file:
        for chunk in source.read(key):
            file.write(chunk)


def rewrite_manifests(backup: Backup) -> None:
    """Bring the manifests beside the copies up to date with the row; what fails is left stale."""
    for copy in backup.copies.filter(state=CopyState.STORED).select_related("storage"):
        with suppress(AdapterError):
            write_manifest(store_of(copy.storage), backup.key, backup.manifest)


def discard_halves(run: Run) -> None:
    """Remove what a lost run left half done: objects that no backup row lists, half copies."""
    unfinished = BackupCopy.objects.filter(backup__run=run, state=CopyState.COPYING)
    for copy in unfinished.select_related("storage", "backup"):
        with suppress(AdapterError):
            delete_objects(store_of(copy.storage), copy.backup.key)
        _mark(copy, CopyState.FAILED, "the run was lost while it was copied")
    listed = set(run.backups.values_list("key", flat=True))
    for storage in _storages_of(run):
        with suppress(AdapterError):
            store = store_of(storage)
            for stored in store.list(f"{run.environment.path}/"):
                if f"-run{run.pk}." in stored.key and not _is_of(stored.key, listed):
                    store.delete(stored.key)


def _storages_of(run: Run) -> Iterator[Storage]:
    policy = BackupPolicy.objects.of(run.environment)
    yield policy.storage
    if policy.pk:
        yield from policy.copies.all()


def _is_of(key: str, listed: set[str]) -> bool:
    return any(key == one or key.startswith(f"{one}.") for one in listed)
