"""Target addresses at rest and at use. Sealed anywhere, opened on workers only."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings

from opsconsole.environments.models import Target
from opsconsole.exceptions import AdapterError, Refused
from opsconsole.targets.dsn import Dsn

_may_open = False


def allow_opening() -> None:
    """Declare this process a worker: only workers may open what is sealed."""
    global _may_open
    _may_open = True


def seal(text: str) -> str:
    """Encrypt with the newest key."""
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
        return Dsn.parse(unseal(target.dsn_encrypted))
    if not _may_open:
        raise Refused("only a worker may open a stored address")
    return _follow(target.dsn_reference)


def resolve_scratch_dsn(target: Target) -> Dsn:
    """Return the address of the target's scratch server; its own address where it has none.

    Raises AdapterError as `resolve_dsn` does.
    """
    if not target.scratch_dsn_encrypted:
        return resolve_dsn(target)
    address = unseal(target.scratch_dsn_encrypted)
    return _follow(address) if is_reference(address) else Dsn.parse(address)


def is_reference(address: str) -> bool:
    """Whether the address says where to find one: `env:NAME` or `file:PATH`."""
    return address.startswith(("env:", "file:"))


def _follow(reference: str) -> Dsn:
    kind, _colon, name = reference.partition(":")
    if kind == "env" and name:
        value = os.environ.get(name, "")
    elif kind == "file" and name:
        try:
            value = Path(name).read_text().strip()
        except OSError as error:
            raise AdapterError(f"cannot read {name}: {error.strerror}") from error
    else:
        raise AdapterError(f"{reference!r} is neither env:NAME nor file:PATH")
    if not value:
        raise AdapterError(f"{reference} is empty on this worker")
    return Dsn.parse(value)


def backup_identities() -> list[str]:
    """The console's age secret keys; the first is the one backups are encrypted to.

    Raises Refused outside a worker.
    """
    if not _may_open:
        raise Refused("only a worker may use the backup keys")
    return list(settings.BACKUP_IDENTITIES)


def _fernet() -> MultiFernet:
    if not settings.ENCRYPTION_KEYS:
        raise Refused("no encryption key: set OPSCONSOLE_ENCRYPTION_KEYS or run `manage.py up`")
    return MultiFernet([Fernet(key) for key in settings.ENCRYPTION_KEYS])
