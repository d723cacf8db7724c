"""Target addresses at rest and at use. Sealed anywhere, opened on workers only."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.db import Error, connection

from opsconsole.environments.models import Target
from opsconsole.exceptions import AdapterError, Refused
from opsconsole.outgoing import Deadline
from opsconsole.targets.dsn import Dsn
from opsconsole.targets.server import IDENTITY, Identity

# What the console itself is configured by holds no address of a target.
OWN_VARIABLES = {"DATABASE_URL", "REDIS_URL", "SECRET_KEY"}
OWN_PREFIX = "OPSCONSOLE_"
KERNEL_FOLDERS = (Path("/proc"), Path("/sys"), Path("/dev"))
RESOLVE_SECONDS = 10
MOST_BYTES = 64 * 1024

_may_open = False
_own_database: Identity | None = None


def allow_opening() -> None:
    """Declare this process a worker: only workers may open what is sealed."""
    global _may_open
    _may_open = True


class Sealed(str):
    """Text that is encrypted already."""


def seal(text: str) -> str:
    """Encrypt with the newest key; what is sealed stays as it is."""
    if isinstance(text, Sealed):
        return str(text)
    return _fernet().encrypt(text.encode()).decode()


def unseal(token: str) -> str:
    """Decrypt with any of the keys. Raises Refused outside a worker, AdapterError for no key."""
    if not _may_open:
        raise Refused("only a worker may open a stored address")
    try:
        return _fernet().decrypt(token.encode()).decode()
    except InvalidToken:
        raise AdapterError(
            "the stored address cannot be decrypted: none of OPSCONSOLE_ENCRYPTION_KEYS fits"
        ) from None


def resolve_dsn(target: Target) -> Dsn:
    """Return the target's address, from its ciphertext or from `env:NAME` / `file:PATH`.

    Raises AdapterError when the reference leads nowhere or the address is malformed.
    """
    if target.dsn_encrypted:
        return _parse(unseal(target.dsn_encrypted))
    if not _may_open:
        raise Refused("only a worker may open a stored address")
    return _follow(target.dsn_reference)


def resolve_scratch_dsn(target: Target) -> Dsn:
    """Return the address of the target's scratch server; its own address where it has none.

    Raises AdapterError as `resolve_dsn` does.
    """
    if not target.scratch_dsn_encrypted:
        return resolve_dsn(target)
    return _open(target.scratch_dsn_encrypted)


def resolve_quarantine_dsn(target: Target) -> Dsn:
    """Return the address at which archives made elsewhere are restored first.

    Raises AdapterError as `resolve_dsn` does, and when the target has none.
    """
    if not target.quarantine_dsn_encrypted:
        raise AdapterError("no quarantine address is set")
    return _open(target.quarantine_dsn_encrypted)


def _open(sealed: str) -> Dsn:
    address = unseal(sealed)
    return _follow(address) if is_reference(address) else _parse(address)


def is_reference(address: str) -> bool:
    """Whether the address says where to find one: `env:NAME` or `file:PATH`."""
    return address.startswith(("env:", "file:"))


def check_reference(reference: str) -> None:
    """Raise AdapterError unless it is one that an address may be: none of the console's secrets."""
    kind, _colon, name = reference.partition(":")
    if kind not in {"env", "file"} or not name or "\0" in name:
        raise AdapterError(f"{reference!r} is neither env:NAME nor file:PATH")
    if kind == "env":
        _check_variable(name)
    else:
        _check_file(name)


def _check_variable(name: str) -> None:
    if name in OWN_VARIABLES or name.startswith(OWN_PREFIX):
        raise AdapterError(f"{name} is the console's own: give a variable that holds an address")
    if not any(fnmatchcase(name, pattern) for pattern in settings.TARGET_VARIABLES):
        raise AdapterError(
            f"{name} is not among the variables that hold addresses "
            f"(OPSCONSOLE_TARGET_VARIABLES: {', '.join(settings.TARGET_VARIABLES)})"
        )


def _check_file(name: str) -> None:
    try:
        path = Path(name).resolve()
    except (OSError, RuntimeError) as error:
        raise AdapterError(f"{name} leads nowhere") from error
    own = [settings.OPSCONSOLE_HOME.path.resolve(), *KERNEL_FOLDERS]
    if any(path.is_relative_to(folder) for folder in own):
        raise AdapterError(f"{name} lies in the console's own data, or in the kernel's")


def _follow(reference: str) -> Dsn:
    check_reference(reference)
    kind, _colon, name = reference.partition(":")
    value = os.environ.get(name, "") if kind == "env" else _read_file(name)
    if not value:
        raise AdapterError(f"{reference} is empty on this worker")
    return _parse(value)


def _read_file(name: str) -> str:
    """The text of a plain file, for a pipe would have its reader wait for ever."""
    path = Path(name)
    try:
        if path.exists() and not path.is_file():
            raise AdapterError(f"cannot read {name}: it is no file")
        with path.open("rb") as file:
            return file.read(MOST_BYTES).decode(errors="replace").strip()
    except OSError as error:
        raise AdapterError(f"cannot read {name}: {error.strerror}") from error


def _parse(address: str) -> Dsn:
    found = Dsn.parse(address).pinned(settings.CALL_POLICY, Deadline(RESOLVE_SECONDS))
    return replace(found, own_database=own_database())


def own_database() -> Identity | None:
    """The identity of the console's own database, as last seen while that cannot be asked."""
    global _own_database
    with suppress(Error), connection.cursor() as cursor:
        cursor.execute(f"SELECT {IDENTITY}")
        started, number = cursor.fetchone()
        _own_database = started, number
    return _own_database


def backup_identities() -> list[str]:
    """The console's age secret keys; the first is the one backups are encrypted to.

    Raises Refused outside a worker.
    """
    if not _may_open:
        raise Refused("only a worker may use the backup keys")
    return list(settings.BACKUP_IDENTITIES)


def key_marks() -> list[str]:
    """What the keys of this process are told apart by, the newest first; it gives none away."""
    return [hashlib.sha256(key.encode()).hexdigest()[:8] for key in settings.ENCRYPTION_KEYS]


def with_newest_key(token: str) -> str:
    """The sealed text encrypted with the newest key; as it is where it is that already, so that
    nothing is written for nothing. Raises as `unseal` does.
    """
    newest = _keys()[0]
    with suppress(InvalidToken):
        newest.decrypt(token.encode())
        return token
    return newest.encrypt(unseal(token).encode()).decode()


def _fernet() -> MultiFernet:
    return MultiFernet(_keys())


def _keys() -> list[Fernet]:
    if not settings.ENCRYPTION_KEYS:
        raise Refused("no encryption key: set OPSCONSOLE_ENCRYPTION_KEYS or run `manage.py up`")
    return [_key(place, text) for place, text in enumerate(settings.ENCRYPTION_KEYS, start=1)]


def _key(place: int, text: str) -> Fernet:
    try:
        return Fernet(text)
    except ValueError:
        raise Refused(
            f"key {place} of OPSCONSOLE_ENCRYPTION_KEYS is no Fernet key: 32 bytes in URL-safe base64"
        ) from None
