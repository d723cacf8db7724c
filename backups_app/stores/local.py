"""A folder on the worker's machine. A file appears there whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from backups_app.exceptions import ObjectMissing
from backups_app.stores.kinds import StoredObject, canonical_key
from opsconsole.exceptions import AdapterError

CHUNK_BYTES = 1024 * 1024
PARTIAL = ".partial"
NO_SUCH_FILE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class LocalStore:
    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def path(self, key: str) -> Path:
        """The object's path; raises AdapterError for a key that leads out of the folder."""
        try:
            path = (self.root / canonical_key(key)).resolve()
        except (OSError, RuntimeError) as error:
            raise AdapterError(f"{key} leads nowhere: {error}") from error
        if not path.is_relative_to(self.root.resolve()):
            raise AdapterError(f"{key} lies outside the backups folder")
        return path

    @contextmanager
    def writer(self, key: str) -> Iterator[IO[bytes]]:
        path = self.path(key)
        partial = path.with_name(path.name + PARTIAL)
        try:
            with self._opened(partial) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.rename(path)
            _sync_folder(path.parent)
        except BaseException as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
                raise AdapterError(f"cannot write the archive: {error.strerror}") from error
            raise

    def _opened(self, partial: Path) -> IO[bytes]:
        partial.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        return os.fdopen(descriptor, "wb")

    def read(self, key: str) -> Iterator[bytes]:
        try:
            with self.path(key).open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
        except OSError as error:
            raise self._failure("cannot read the archive", error) from error

    def delete(self, key: str) -> None:
        path = self.path(key)
        what, missing = f"cannot delete {key}", []
        for one in (path, path.with_name(path.name + PARTIAL)):
            try:
                one.unlink()
            except NO_SUCH_FILE as error:
                missing.append(error)
            except OSError as error:
                raise AdapterError(f"{what}: {error.strerror}") from error
        if len(missing) == 2:
            with suppress(ObjectMissing):
                raise self._failure(what, missing[0])

    def _failure(self, what: str, error: OSError) -> AdapterError:
        if not isinstance(error, NO_SUCH_FILE):
            return AdapterError(f"{what}: {error.strerror}")
        # A mount point without its disk is a folder that is empty.
        if not self._holds_anything():
            return AdapterError(f"{what}: {self.root} is not there or empty; is its disk mounted?")
        return ObjectMissing(f"{what}: {error.strerror}")

    def _holds_anything(self) -> bool:
        try:
            return any(self.root.iterdir())
        except OSError:
            return False

    def list(self, prefix: str) -> list[StoredObject]:
        folder = self.path(prefix.strip("/")) if prefix else self.root.resolve()
        try:
            if not folder.exists():
                return []
            return sorted(
                (
                    StoredObject(
                        str(path.relative_to(self.root.resolve())).removesuffix(PARTIAL),
                        path.stat().st_size,
                    )
                    for path in folder.rglob("*")
                    if path.is_file()
                ),
                key=lambda stored: stored.key,
            )
        except OSError as error:
            raise AdapterError(f"cannot list {prefix}: {error.strerror}") from error

    def free_bytes(self) -> int:
        existing = next(p for p in (self.root, *self.root.parents) if p.exists())
        return shutil.disk_usage(existing).free


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
