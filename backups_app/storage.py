"""Where archives lie. A folder on the worker's machine; a file appears there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opsconsole.exceptions import AdapterError

CHUNK_BYTES = 1024 * 1024
PARTIAL = ".partial"
MANIFEST = ".json"


@dataclass(frozen=True)
class LocalStorage:
    """Archives and their manifests under one folder. Keys are relative paths."""

    root: Path

    def path(self, key: str) -> Path:
        """The archive's path; raises AdapterError for a key that leads out of the folder."""
        path = (self.root / key).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise AdapterError(f"{key} lies outside the backups folder")
        return path

    def partial(self, key: str) -> Path:
        """Where an archive is written until it is whole; makes its folder."""
        path = self.path(key)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise AdapterError(f"cannot write to {path.parent}: {error.strerror}") from error
        return path.with_name(path.name + PARTIAL)

    def commit(self, key: str, manifest: dict[str, Any]) -> None:
        """Write the manifest, then give the partial archive its name; both reach the disk first."""
        partial, path = self.partial(key), self.path(key)
        self.write_manifest(key, manifest)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.rename(path)
        _sync_folder(path.parent)

    def write_manifest(self, key: str, manifest: dict[str, Any]) -> None:
        path = self.path(key + MANIFEST)
        temporary = path.with_name(path.name + PARTIAL)
        with temporary.open("w") as file:
            json.dump(manifest, file, indent=2, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)

    def discard(self, key: str) -> None:
        """Remove an archive, its manifest and what was half written of either."""
        path = self.path(key)
        for name in (path.name, path.name + MANIFEST):
            path.with_name(name).unlink(missing_ok=True)
            path.with_name(name + PARTIAL).unlink(missing_ok=True)

    def sha256(self, key: str) -> str:
        """Hash of the stored bytes; raises AdapterError when the archive cannot be read."""
        digest = hashlib.sha256()
        try:
            with self.path(key).open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    digest.update(chunk)
        except OSError as error:
            raise AdapterError(f"cannot read the archive: {error.strerror}") from error
        return digest.hexdigest()

    def free_bytes(self) -> int:
        existing = next(p for p in (self.root, *self.root.parents) if p.exists())
        return shutil.disk_usage(existing).free


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
