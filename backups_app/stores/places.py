"""What an object is called, whatever storage and spelling it is reached by."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from backups_app.stores.kinds import Address, canonical_key
from backups_app.stores.local import LocalStore


@dataclass(frozen=True)
class Place:
    """Names of an object or a folder, and of all folders above it.

    One thing has several names: its path without regard to case and to the form of its Unicode,
    and on this machine the file's own number, which sees through mounts and through file systems
    that take two spellings for one.
    """

    own: frozenset[str]
    above: frozenset[str]

    def lies_in(self, folder: Place) -> bool:
        return not folder.own.isdisjoint(self.own | self.above)


def place_of(url: str, key: str) -> Place:
    """Where a storage's key leads. Endpoints are left out: a bucket may have several.

    Raises AdapterError for a bad URL or key, and for one that leads out of a folder.
    """
    address = Address.parse(url)
    if address.scheme == "file":
        path = LocalStore(address.path).path(key)
        own, *above = (frozenset(_names_of(one)) for one in (path, *path.parents))
    else:
        whole = f"{address.bucket}/{address.path}/{canonical_key(key)}".replace("//", "/")
        steps = accumulate(whole.split("/"), lambda folder, name: f"{folder}/{name}")
        own, *above = (frozenset({_fold(f"{address.scheme}:{one}")}) for one in [*steps][::-1])
    return Place(own, frozenset().union(*above))


def _names_of(path: Path) -> Iterator[str]:
    yield _fold(str(path))
    with suppress(OSError):
        status = path.stat()
        yield f"{status.st_dev}:{status.st_ino}"


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()
