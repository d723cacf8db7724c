"""Buckets of S3, of what speaks its language, and of Azure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import BaseError
from obstore.store import AzureStore, S3Store

from backups_app.exceptions import ObjectMissing
from backups_app.stores.gateway import Passage
from backups_app.stores.kinds import Address, Credentials, StoredObject, Writer, canonical_key
from opsconsole.exceptions import AdapterError
from opsconsole.outgoing import CallPolicy

if TYPE_CHECKING:
    from obstore import GetOptions

# S3 takes 10,000 parts: an archive may hold 160 GB. Two parts are in memory at a time.
PART_BYTES = 16 * 1024 * 1024
CHUNK_BYTES = 1024 * 1024
# Of one request with all of its body, and of connecting.
TIMEOUTS = {"timeout": "60s", "connect_timeout": "10s"}
RETRIES = {
    "max_retries": 4,
    "retry_timeout": timedelta(seconds=60),
    "backoff": {
        "init_backoff": timedelta(milliseconds=200),
        "max_backoff": timedelta(seconds=10),
        "base": 2,
    },
}
# S3 and Azure. Other 404s are those of a bucket, of an account, or of a proxy on the way.
NO_SUCH_OBJECT = {"NoSuchKey", "BlobNotFound"}
# The library deletes there in bulk, and an answer in bulk has this text and no code.
AZURE_BULK_NOT_FOUND = "The specified blob does not exist."
# What the library's own report of a failed request shows, in words.
CAUSES = {
    "ConnectionRefused": "connection refused",
    "TimedOut": "timed out",
    "dns error": "no such host",
    "UnknownIssuer": "its certificate is not trusted",
    "InvalidCertificate": "its certificate is not valid",
    "IncompleteMessage": "it closed the connection",
}


class ObjectStore:
    """A bucket. A write is a multipart upload that is aborted when it fails.

    Requests answered with 5xx are sent again with a growing pause, for a minute at most.
    """

    def __init__(self, address: Address, credentials: Credentials, policy: CallPolicy) -> None:
        self._passage = Passage(policy)
        self._store = _open(address, credentials, self._passage)

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            with _translated(what):
                yield
        except ObjectMissing:
            raise
        except AdapterError as error:
            if not self._passage.trouble:
                raise
            raise AdapterError(f"{what}: {self._passage.trouble}") from error

    @contextmanager
    def writer(self, key: str) -> Iterator[Writer]:
        what = f"cannot write {key}"
        with self._translated(what):
            upload = obstore.open_writer(
                self._store, canonical_key(key), buffer_size=PART_BYTES, max_concurrency=2
            )
        try:
            yield _Translating(upload, lambda: self._translated(what))
        except BaseException as error:
            # Leaving by an exception aborts the upload; a server that is gone cannot be told.
            with suppress(OSError, BaseError):
                upload.__exit__(type(error), error, error.__traceback__)
            raise
        with self._translated(what):
            upload.close()

    def read(self, key: str) -> Iterator[bytes]:
        name = canonical_key(key)
        with self._translated("cannot read the archive"):
            whole = obstore.get(self._store, name)
            size, tag = whole.meta["size"], whole.meta["e_tag"]
            if size <= PART_BYTES:
                yield from _chunks(whole)
                return
            # A request has a minute for all of its body: one for a whole archive would be cut off.
            del whole
            for start in range(0, size, PART_BYTES):
                end = min(start + PART_BYTES, size)
                asked: GetOptions = {"range": (start, end)}
                if tag:
                    asked["if_match"] = tag
                yield from _chunks(obstore.get(self._store, name, options=asked))

    def delete(self, key: str) -> None:
        with suppress(ObjectMissing), self._translated(f"cannot delete {key}"):
            obstore.delete(self._store, canonical_key(key))

    def list(self, prefix: str) -> list[StoredObject]:
        with self._translated(f"cannot list {prefix}"):
            found = [
                StoredObject(meta["path"], meta["size"])
                for batch in obstore.list(self._store, prefix)
                for meta in batch
            ]
        return sorted(found, key=lambda stored: stored.key)

    def free_bytes(self) -> None:
        return None


def _chunks(found: obstore.GetResult) -> Iterator[bytes]:
    for chunk in found.stream(min_chunk_size=CHUNK_BYTES):
        yield bytes(chunk)


class _Translating:
    def __init__(
        self, upload: obstore.WritableFile, translated: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._upload, self._translated = upload, translated

    def write(self, data: bytes) -> int:
        with self._translated():
            return self._upload.write(data)


def _open(address: Address, credentials: Credentials, passage: Passage) -> Any:
    client: Any = TIMEOUTS | {"proxy_url": passage.url}
    if address.endpoint.startswith("http://"):
        # The passage takes one request on each connection that is not a tunnel.
        client |= {"allow_http": True, "pool_max_idle_per_host": "0"}
    common: dict[str, Any] = {
        "prefix": address.path or None,
        "client_options": client,
        "retry_config": RETRIES,
    }
    if address.endpoint:
        common["endpoint"] = address.endpoint
    with _translated("cannot open the storage"):
        if address.scheme == "s3":
            return S3Store(
                address.bucket,
                access_key_id=credentials.key,
                secret_access_key=credentials.secret,
                region=address.region or "us-east-1",
                checksum_algorithm="SHA256",
                **common,
            )
        return AzureStore(
            address.bucket, account_name=credentials.key, account_key=credentials.secret, **common
        )


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        kind = ObjectMissing if _code_of(error) in NO_SUCH_OBJECT else AdapterError
        raise kind(f"{what}: {reason_of(error)}") from error


def _code_of(error: Exception) -> str:
    """The storage's own word for what is wrong; "" when it was somebody else who answered."""
    text = str(error)
    if AZURE_BULK_NOT_FOUND in text:
        return "BlobNotFound"
    found = re.search(r"<Code>(.*?)</Code>", text)
    return found[1] if found else ""


def reason_of(error: Exception) -> str:
    """One line of what the server said, without the address of the request."""
    text = str(error).split("\n\nDebug source")[0]
    status = re.search(r"status code: (\d{3} [A-Za-z ]+)", text)
    message = re.search(r"<Message>(.*?)</Message>", text)
    if status and status[1].startswith("407"):
        # The library takes the passage's key to no other host, unless it is a tunnel.
        return "it redirects to another http:// address, which is not followed: give that one"
    if status:
        said = ": ".join(filter(None, (_code_of(error), message[1] if message else "")))
        return f"the storage answered {status[1].strip()}{f' ({said})' if said else ''}"
    if "error sending request" in text or "operation timed out" in text:
        cause = next((words for sign, words in CAUSES.items() if sign in str(error)), "")
        return f"the storage cannot be reached{f' ({cause})' if cause else ''}"
    if "response body error" in text:
        return "the storage did not answer in time, or broke off"
    return re.sub(r"https?://\S+", "…", text.splitlines()[0])[:300]
