"""Archives that were made elsewhere: unpacked layer by layer, told apart, and listed.

Nothing of them is executed here. Plain SQL is refused whatever is around it: it could do
anything that the console's role may do, and nothing could be compared afterwards.
"""

from __future__ import annotations

import gzip
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

import zstandard

from backups_app.archives.archive import CHUNK_BYTES, tar_of
from backups_app.archives.dump import ToolSession, running_tool
from backups_app.archives.encryption import decrypt
from opsconsole.exceptions import AdapterError
from opsconsole.targets.dsn import Dsn
from opsconsole.targets.tools import ClientTools

CUSTOM, AGE, ZSTD, GZIP = b"PGDMP", b"age-encryption.org/v1", b"\x28\xb5\x2f\xfd", b"\x1f\x8b"
TAR_MAGIC, TAR_MAGIC_AT = b"ustar", 257
MAX_LAYERS = 4
# What stays free on the disk of the temporary folder, whatever an archive unpacks to.
RESERVE_BYTES = 256 * 1024 * 1024
RESERVE_LOOKED_AT_BYTES = 32 * 1024 * 1024
NOT_AN_ARCHIVE = (
    "this is neither a custom archive (pg_dump -Fc) nor a packed directory archive (pg_dump -Fd, "
    "then tar). Plain SQL is never run: make an archive with pg_dump -Fc"
)


@dataclass(frozen=True)
class ForeignArchive:
    """An unpacked archive: a file of format custom, or a folder of format directory."""

    format: str
    path: Path

    def chunks(self) -> Iterator[bytes]:
        """Its bytes as the console stores them, before compression."""
        if self.format == "directory":
            yield from tar_of(self.path)
            return
        with self.path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk


@dataclass(frozen=True)
class Listing:
    """What `pg_restore --list` says of an archive; versions as it prints them."""

    database: str
    dumped_at: str
    server_version: str
    client_version: str
    extensions: tuple[str, ...] = field(default=())
    event_triggers: tuple[str, ...] = field(default=())


def unpack_foreign(
    stored: Iterable[bytes],
    folder: Path,
    *,
    identities: Iterable[str],
    on_progress: Callable[[int], None],
) -> ForeignArchive:
    """Write `stored` to `folder` and take off its layers (age, zstd, gzip, tar).

    `on_progress(stored bytes so far)`. Raises AdapterError when it is no archive of pg_dump,
    does not unpack, no identity opens it, or would fill the disk.
    """
    path = folder / "0"
    try:
        with path.open("wb") as file:
            _copy(_told(stored, on_progress), file, folder)
        for layer in range(1, MAX_LAYERS + 1):
            with path.open("rb") as file:
                head = file.read(TAR_MAGIC_AT + len(TAR_MAGIC))
            if head.startswith(CUSTOM):
                return ForeignArchive("custom", path)
            if _is_tar(head):
                return ForeignArchive("directory", _untar(path, folder))
            outer, path = path, folder / str(layer)
            _peel(head, outer, path, identities)
            outer.unlink()
    except (zstandard.ZstdError, zlib.error, EOFError, gzip.BadGzipFile, tarfile.TarError) as error:
        raise AdapterError(f"the archive does not unpack: {error}") from error
    except OSError as error:
        raise AdapterError(f"cannot unpack the archive: {error.strerror or error}") from error
    raise AdapterError("the archive has too many nested layers of compression")


def may_be_archive(head: bytes) -> bool:
    """Whether the first bytes are those of something `unpack_foreign` would look into."""
    return head.startswith((CUSTOM, AGE, ZSTD, GZIP)) or _is_tar(head)


def _is_tar(head: bytes) -> bool:
    return head[TAR_MAGIC_AT : TAR_MAGIC_AT + len(TAR_MAGIC)] == TAR_MAGIC


def _told(chunks: Iterable[bytes], on_progress: Callable[[int], None]) -> Iterator[bytes]:
    count = 0
    for chunk in chunks:
        yield chunk
        count += len(chunk)
        on_progress(count)


def _copy(chunks: Iterable[bytes], file: IO[bytes], folder: Path) -> None:
    """Write the chunks while the disk keeps its reserve: a small archive may unpack to anything."""
    since_look = RESERVE_LOOKED_AT_BYTES
    for chunk in chunks:
        if since_look >= RESERVE_LOOKED_AT_BYTES:
            since_look = 0
            if shutil.disk_usage(folder).free < RESERVE_BYTES:
                raise AdapterError("the temporary folder is full: the archive does not fit there")
        file.write(chunk)
        since_look += len(chunk)


def _peel(head: bytes, outer: Path, inner: Path, identities: Iterable[str]) -> None:
    """Take off one layer; raises AdapterError for what is none."""
    with outer.open("rb") as source, inner.open("wb") as file:
        if head.startswith(AGE):
            decrypt(_read(source), _Guarded(file, inner.parent), identities)
        elif head.startswith(ZSTD):
            decompressor = zstandard.ZstdDecompressor()
            with decompressor.stream_reader(source, read_across_frames=True) as unpacked:
                _copy(_read(unpacked), file, inner.parent)
        elif head.startswith(GZIP):
            with gzip.GzipFile(fileobj=source) as unpacked:
                _copy(_read(unpacked), file, inner.parent)
        else:
            raise AdapterError(NOT_AN_ARCHIVE)


class _Guarded:
    def __init__(self, file: IO[bytes], folder: Path) -> None:
        self._file, self._folder = file, folder

    def write(self, data: bytes) -> None:
        _copy([data], self._file, self._folder)


class _Reads(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _read(file: _Reads) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _untar(path: Path, folder: Path) -> Path:
    """Unpack a tar file of one flat folder, whatever that folder is called in it."""
    unpacked = folder / "unpacked"
    unpacked.mkdir()
    with tarfile.open(path, mode="r:") as archive:
        for member in archive:
            if member.isdir():
                continue
            source = archive.extractfile(member) if member.isreg() else None
            name = Path(member.name).name
            if source is None or not name or (unpacked / name).exists():
                raise AdapterError(f"{member.name!r} has no place in a directory archive")
            with (unpacked / name).open("wb") as file:
                _copy(_read(source), file, folder)
    path.unlink()
    if (unpacked / "restore.sql").exists():
        raise AdapterError("an archive of pg_dump -Ft is not taken: make it with pg_dump -Fc")
    if not (unpacked / "toc.dat").exists():
        raise AdapterError(NOT_AN_ARCHIVE)
    return unpacked


def read_listing(
    tools: ClientTools, archive: ForeignArchive, *, dsn: Dsn, session: ToolSession
) -> Listing:
    """List the archive; raises AdapterError with the tool's reason when it cannot be read."""
    with running_tool([tools.pg_restore, "--list", str(archive.path)], dsn, session) as tool:
        text = b"".join(tool.chunks()).decode(errors="replace")
        tool.finish()
    return parse_listing(text)


def parse_listing(text: str) -> Listing:
    """Read the head and the extensions of what `pg_restore --list` printed."""

    def after(label: str) -> str:
        found = re.search(rf"^;\s+{label}:? (.+)$", text, re.MULTILINE)
        return found[1].strip() if found else ""

    return Listing(
        database=after("dbname"),
        dumped_at=after("Archive created at"),
        server_version=after("Dumped from database version"),
        client_version=after("Dumped by pg_dump version"),
        extensions=tuple(re.findall(r"^\d+; 3079 \d+ EXTENSION - (\S+)", text, re.MULTILINE)),
        event_triggers=tuple(
            re.findall(r"^\d+; 3466 \d+ EVENT TRIGGER - (.+) \S+$", text, re.MULTILINE)
        ),
    )
