"""The contract of a store, and opening one by its URL. `tests/contracts/store.py` tests it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import parse_qs

from backups_app.exceptions import BadKey
from opsconsole.exceptions import AdapterError
from opsconsole.url import split_url


class Writer(Protocol):
    def write(self, data: bytes, /) -> object: ...


@dataclass(frozen=True)
class StoredObject:
    key: str
    size_bytes: int


class Store(Protocol):
    """Where archives lie. Keys are those of `canonical_key`; every method raises AdapterError.

    ObjectMissing is raised only when the store itself was reached and does not have the object.
    A folder whose disk is not mounted or a bucket that does not exist cannot be reached: nothing
    is then known of what lies there.
    """

    def writer(self, key: str) -> AbstractContextManager[Writer]:
        """Write an object that appears whole when the block ends, or never when it raises."""

    def read(self, key: str) -> Iterator[bytes]:
        """Yield the object's bytes in chunks of at most 1 MiB. Raises ObjectMissing."""

    def delete(self, key: str) -> None:
        """Remove an object, and what was half written of it; one that is not there is no error."""

    def list(self, prefix: str) -> list[StoredObject]:
        """Whole and half-written objects whose key starts with a folder's path and a slash."""

    def free_bytes(self) -> int | None:
        """Bytes still free, or None where there is no such number."""


def canonical_key(text: str) -> str:
    """Return a key that is spelled in the only way it can be; raises BadKey for any other text.

    Stores read `a//b`, `./a` and `a\\b` in different ways, so nothing is mended here: two
    canonical keys are equal exactly when a store that tells case apart takes them for one object.
    """
    if not text:
        raise BadKey("Give the archive's path in the storage.")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in text):
        raise BadKey("A path holds no control characters.")
    if "\\" in text:
        raise BadKey("Write the folders of a path with / between them, not with \\.")
    segments = text.split("/")
    if "" in segments:
        raise BadKey("A path has no / at its beginning or its end, and never two together.")
    if {".", ".."} & set(segments):
        raise BadKey("A path has no folder called . or .. in it.")
    return text


@dataclass(frozen=True)
class Credentials:
    """An access key and its secret; for Azure the account's name and key."""

    key: str = ""
    secret: str = field(default="", repr=False)


@dataclass(frozen=True)
class Address:
    """A storage's URL in parts: `file:///folder`, `s3://bucket/prefix?endpoint=…&region=…`,
    `azure://container/prefix?endpoint=…`.
    """

    scheme: str
    bucket: str
    path: str
    endpoint: str = ""
    region: str = ""

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises AdapterError that says what is wrong with the URL."""
        parts = split_url(url)
        options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if parts.username or parts.password:
            raise AdapterError("the URL must not hold a key or a password: give them apart")
        unknown = set(options) - {"endpoint", "region"}
        if unknown:
            raise AdapterError(f"unknown option {sorted(unknown)[0]!r}: only endpoint and region")
        if parts.scheme == "file":
            if parts.netloc or not parts.path.startswith("/") or ".." in parts.path.split("/"):
                raise AdapterError("a folder is given as file:///absolute/path")
        elif parts.scheme in {"s3", "azure"}:
            if not parts.netloc:
                raise AdapterError(f"give the bucket: {parts.scheme}://bucket/prefix")
        else:
            raise AdapterError("a storage starts with file://, s3:// or azure://")
        endpoint = options.get("endpoint", "")
        if endpoint and split_url(endpoint).scheme not in {"http", "https"}:
            raise AdapterError("the endpoint starts with https:// (or http://)")
        path = parts.path if parts.scheme == "file" else parts.path.strip("/")
        return cls(parts.scheme, parts.netloc, path, endpoint, options.get("region", ""))
