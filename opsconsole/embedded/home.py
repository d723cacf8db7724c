"""The console's data folder: keys, addresses of the embedded servers, and the lock on it."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import secrets
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyrage


class HomeUnusable(Exception):
    """The folder cannot be used; the message is one line that says why."""


@dataclass(frozen=True)
class Addresses:
    database_url: str = ""
    redis_url: str = ""
    superuser_dsn: str = field(default="", repr=False)


@dataclass(frozen=True)
class Keys:
    secret_key: str = field(default="", repr=False)
    encryption_keys: list[str] = field(default_factory=list, repr=False)
    demo_password: str = field(default="", repr=False)
    backup_identities: list[str] = field(default_factory=list, repr=False)


@dataclass(frozen=True)
class Home:
    """Paths under one folder. Reading never creates anything; `prepare` does."""

    path: Path

    @property
    def keys_file(self) -> Path:
        return self.path / "keys.json"

    @property
    def addresses_file(self) -> Path:
        return self.path / "embedded.json"

    def read_keys(self) -> Keys:
        return Keys(**_read_json(self.keys_file))

    def read_addresses(self) -> Addresses:
        return Addresses(**_read_json(self.addresses_file))

    def write_addresses(self, addresses: Addresses) -> None:
        write_private(self.addresses_file, json.dumps(vars(addresses)))

    def prepare(self) -> None:
        """Create the folder (0700) and, on the first start, its keys.

        Raises HomeUnusable when it cannot be written or its disk is full.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.write_bytes(b"0" * 65536)
            probe.unlink()
            # Others may pass through (the embedded server's account as root), not list.
            self.path.chmod(0o711 if os.geteuid() == 0 else 0o700)
            keys = self.read_keys()
            if not (keys.secret_key and keys.backup_identities):
                self._write_keys(_new_keys() | _set_ones(keys))
        except OSError as error:
            raise HomeUnusable(f"cannot write to {self.path}: {error.strerror}") from error

    def add_encryption_key(self) -> None:
        """Put a new key in front of those in the keys file, which has some."""
        keys = vars(self.read_keys())
        self._write_keys(keys | {"encryption_keys": [_new_fernet_key(), *keys["encryption_keys"]]})

    def keep_newest_encryption_key(self) -> None:
        """Take the other ones out of the keys file, for good."""
        keys = vars(self.read_keys())
        self._write_keys(keys | {"encryption_keys": keys["encryption_keys"][:1]})

    def _write_keys(self, keys: dict[str, Any]) -> None:
        write_private(self.keys_file, json.dumps(keys))

    def lock(self) -> int:
        """Take the folder's lock for the life of this process; returns its file descriptor.

        Raises HomeUnusable when another `up` holds it.
        """
        descriptor = os.open(self.path / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode().strip() or "unknown"
            os.close(descriptor)
            raise HomeUnusable(
                f"the console in {self.path} is already running (process {holder})"
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        return descriptor

    def socket_folder(self, name: str, owner: int, root: Path | None = None) -> Path:
        """Return a private (0700) folder of `owner` (a uid), short enough for a socket's path.

        It lies under `root`, by default the home.

        A socket's path holds at most 107 bytes: a deep home gets a folder under the system's
        temporary folder instead, named by a hash of the home.
        """
        folder = (root or self.path) / f"run-{name}"
        if len(str(folder / ".s.PGSQL.5432.lock")) > 100:
            digest = hashlib.sha256(str(self.path).encode()).hexdigest()[:12]
            folder = Path(tempfile.gettempdir()) / f"opsconsole-{name}-{os.geteuid()}-{digest}"
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if not folder.is_dir() or folder.is_symlink() or status.st_uid not in {owner, os.geteuid()}:
            raise HomeUnusable(f"{folder} belongs to somebody else; remove it")
        if status.st_uid != owner:
            os.chown(folder, owner, -1)
        folder.chmod(0o700)
        return folder


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, all of it or none of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _read_json(path: Path) -> dict:
    try:
        return dict(json.loads(path.read_text()))
    except (FileNotFoundError, PermissionError):
        return {}


def _set_ones(keys: Keys) -> dict[str, Any]:
    return {name: value for name, value in vars(keys).items() if value}


def _new_keys() -> dict[str, Any]:
    words = secrets.token_hex(6)
    return {
        "secret_key": secrets.token_urlsafe(64),
        "encryption_keys": [_new_fernet_key()],
        "demo_password": f"{words[:4]}-{words[4:8]}-{words[8:]}",
        "backup_identities": [str(pyrage.x25519.Identity.generate())],
    }


def _new_fernet_key() -> str:
    """32 random bytes in URL-safe base64: github.com/fernet/spec."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
