"""Encrypt streams with age (https://age-encryption.org/v1), so that the age tool alone opens them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyrage

from backups_app.exceptions import ArchiveCorrupt
from backups_app.stores.kinds import Writer
from opsconsole.exceptions import AdapterError


class PulledFrom:
    """A readable file over an iterator of chunks. `error` keeps what the iterator raised.

    pyrage gives a reader's exception back as text only, so it is kept here to be raised again.
    """

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = b""
        self.error: BaseException | None = None

    def read(self, size: int = -1) -> bytes:
        try:
            while not self._left:
                self._left = next(self._chunks)
        except StopIteration:
            return b""
        except BaseException as error:
            self.error = error
            raise
        taken, self._left = self._left[:size], self._left[size:]
        return taken


class PushedTo:
    """A writable file that hands on what it is given, and keeps what the taker raised."""

    def __init__(self, taker: Writer) -> None:
        self._taker = taker
        self.error: BaseException | None = None

    def write(self, data: bytes) -> int:
        if self.error:
            raise self.error  # pyrage flushes what it holds, even after a failure
        try:
            self._taker.write(data)
        except BaseException as error:
            self.error = error
            raise
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""


def parse_recipients(text: str) -> list[str]:
    """age public keys, one per line; `#` starts a comment. Raises AdapterError naming a bad line."""
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        recipient = line.partition("#")[0].strip()
        if not recipient:
            continue
        if recipient.upper().startswith("AGE-SECRET-KEY"):
            raise AdapterError(f"line {number} is a secret key: give the public one (age1…)")
        try:
            _recipient(recipient)
        except (pyrage.RecipientError, ValueError):
            raise AdapterError(
                f"line {number} is not an age public key (age1… or ssh-ed25519 …)"
            ) from None
        found.append(recipient)
    return list(dict.fromkeys(found))


def _recipient(text: str) -> Any:
    kind = pyrage.ssh if text.startswith("ssh-") else pyrage.x25519
    return kind.Recipient.from_str(text)


def _identity(text: str) -> Any:
    try:
        return pyrage.x25519.Identity.from_str(text.strip())
    except (pyrage.IdentityError, ValueError):
        raise AdapterError("the console's backup key is not an age secret key") from None


def new_identity() -> str:
    """A new secret key, `AGE-SECRET-KEY-1…`."""
    return str(pyrage.x25519.Identity.generate())


def public_key(identity: str) -> str:
    """The public key (`age1…`) of a secret one; raises AdapterError when it is none."""
    return str(_identity(identity).to_public())


def encrypt(chunks: Iterator[bytes], taker: Writer, recipients: Iterable[str]) -> None:
    """Read `chunks` to their end and write the age file to `taker`; raises what these raise."""
    source, sink = PulledFrom(chunks), PushedTo(taker)
    try:
        pyrage.encrypt_io(source, sink, [_recipient(r) for r in recipients])
    except Exception:
        if error := source.error or sink.error:
            raise error from None
        raise


def decrypt(chunks: Iterator[bytes], taker: Writer, identities: Iterable[str]) -> None:
    """The opposite. Raises AdapterError when no identity fits, ArchiveCorrupt when the bytes were changed."""
    source, sink = PulledFrom(chunks), PushedTo(taker)
    try:
        pyrage.decrypt_io(source, sink, [_identity(i) for i in identities])
    except Exception as problem:
        if error := source.error or sink.error:
            raise error from None
        if "No matching keys" in str(problem):
            raise AdapterError(
                "the archive is encrypted, and none of the console's backup keys opens it"
            ) from None
        raise ArchiveCorrupt(f"the archive is corrupt: it does not decrypt ({problem})") from None
