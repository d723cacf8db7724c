"""The stored form of an archive: what pg_dump wrote, then zstd, then age; hashed in the same pass."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import zstandard

from backups_app.archives import encryption
from backups_app.exceptions import ArchiveCorrupt
from backups_app.stores.kinds import Writer
from opsconsole.exceptions import AdapterError

TAR_BLOCK = 512
CHUNK_BYTES = 256 * 1024


# What lies beside an archive as JSON: all that it takes to restore it without this console.
Manifest = dict[str, object]


@dataclass(frozen=True)
class StoredForm:
    """How an archive is stored. `level` is zstd's, 0 for none; `recipients` are age public keys."""

    format: str = "custom"
    level: int = 1
    recipients: tuple[str, ...] = ()

    @property
    def suffix(self) -> str:
        return (
            (".tar" if self.format == "directory" else ".dump")
            + (".zst" if self.level else "")
            + (".age" if self.recipients else "")
        )

    def as_dict(self) -> Manifest:
        """The form's part of a manifest."""
        return {
            "format": self.format,
            "compression": f"zstd:{self.level}" if self.level else "none",
            "recipients": list(self.recipients),
        }

    @classmethod
    def from_manifest(cls, manifest: dict[str, Any]) -> StoredForm:
        _kind, _colon, level = str(manifest["compression"]).partition(":")
        return cls(manifest["format"], int(level or 0), tuple(manifest["recipients"]))


@dataclass(frozen=True)
class Written:
    """Sizes in bytes, before and after compression; SHA-256 (hex) of the stored bytes."""

    raw_bytes: int
    size_bytes: int
    sha256: str


class HashingWriter:
    """Hands on what it is given; counts and hashes it."""

    def __init__(self, taker: Writer) -> None:
        self._taker = taker
        self._digest = hashlib.sha256()
        self.count = 0

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        self.count += len(data)
        self._taker.write(data)
        return len(data)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


def write_archive(
    raw: Iterable[bytes], form: StoredForm, taker: Writer, on_progress: Callable[[int], None]
) -> Written:
    """Compress, encrypt and hash `raw` into `taker` in one pass of constant memory.

    `on_progress(raw bytes so far)`. Raises AdapterError when there was nothing to store.
    """
    counted, stored = _Counted(raw, on_progress), HashingWriter(taker)
    chunks = _compressed(counted, form.level) if form.level else iter(counted)
    if form.recipients:
        encryption.encrypt(chunks, stored, form.recipients)
    else:
        for chunk in chunks:
            stored.write(chunk)
    if counted.count == 0:
        raise AdapterError("pg_dump printed nothing")
    return Written(counted.count, stored.count, stored.sha256)


class _Counted:
    def __init__(self, chunks: Iterable[bytes], on_progress: Callable[[int], None]) -> None:
        self._chunks, self._on_progress, self.count = chunks, on_progress, 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.count += len(chunk)
            yield chunk
            self._on_progress(self.count)


def _compressed(chunks: Iterable[bytes], level: int) -> Iterator[bytes]:
    # One thread beside ours: it compresses while the next chunk is read, hashed and stored.
    compressor = zstandard.ZstdCompressor(level=level, threads=1).compressobj()
    for chunk in chunks:
        if data := compressor.compress(chunk):
            yield data
    yield compressor.flush()


def read_archive(
    stored: Iterator[bytes],
    form: StoredForm,
    taker: Writer,
    *,
    sha256: str,
    identities: Iterable[str] = (),
) -> None:
    """Decrypt and decompress `stored` into `taker`, reading it to its end.

    Raises what `stored` raises: bytes that could not be read say nothing about the archive.
    Raises ArchiveCorrupt when the stored bytes are not those of `sha256`,
    do not decrypt or do not decompress. What `taker` raises comes first only if the bytes are
    whole: a tool that chokes on a corrupt archive is not the news.
    """
    source = HashingReader(stored)
    hashed = iter(source)
    problem: Exception | None = None
    try:
        _decode(hashed, form, taker, identities)
    except Exception as error:
        problem = error
        for _rest in hashed:
            pass
    if source.error:
        raise source.error
    if source.sha256 != sha256:
        detail = f" ({problem})" if isinstance(problem, AdapterError) else ""
        raise ArchiveCorrupt(
            f"the archive is corrupt: its checksum is not the recorded one{detail}"
        ) from problem
    if problem:
        raise problem


class HashingReader:
    """Hands on stored bytes and hashes them; `error` is why they could not be read to their end."""

    def __init__(self, stored: Iterator[bytes]) -> None:
        self._stored = stored
        self._digest = hashlib.sha256()
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[bytes]:
        try:
            for chunk in self._stored:
                self._digest.update(chunk)
                yield chunk
        except Exception as error:
            self.error = error
            raise

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


def _decode(
    stored: Iterator[bytes], form: StoredForm, taker: Writer, identities: Iterable[str]
) -> None:
    unpacked = _Decompressing(taker) if form.level else taker
    if form.recipients:
        encryption.decrypt(stored, unpacked, identities)
    else:
        for chunk in stored:
            unpacked.write(chunk)
    if isinstance(unpacked, _Decompressing):
        unpacked.finish()


class _Decompressing:
    def __init__(self, taker: Writer) -> None:
        self._taker = taker
        self._decompressor = zstandard.ZstdDecompressor().decompressobj()

    def write(self, data: bytes) -> None:
        try:
            chunk = self._decompressor.decompress(data)
        except zstandard.ZstdError as error:
            raise ArchiveCorrupt(
                f"the archive is corrupt: it does not decompress ({error})"
            ) from None
        if chunk:
            self._taker.write(chunk)

    def finish(self) -> None:
        if not self._decompressor.eof:
            raise ArchiveCorrupt("the archive is corrupt: it ends too early")


def tar_of(folder: Path) -> Iterator[bytes]:
    """The flat folder that `pg_dump -Fd` writes, as an uncompressed tar stream."""
    for path in sorted(folder.iterdir()):
        info = tarfile.TarInfo(path.name)
        info.size, info.mode = path.stat().st_size, 0o600
        yield info.tobuf(tarfile.PAX_FORMAT)
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
        yield b"\0" * (-info.size % TAR_BLOCK)
    yield b"\0" * (2 * TAR_BLOCK)


def _unpack_member(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Write one member. `pg_dump -Fd` makes plain files in one folder, and nothing else."""
    source = archive.extractfile(member) if member.isreg() else None
    if source is None or Path(member.name).name != member.name:
        raise tarfile.TarError(f"{member.name!r} is no plain file of a directory dump")
    with (folder / member.name).open("wb") as file:
        shutil.copyfileobj(source, file, CHUNK_BYTES)


def unpack_tar(read_into: Callable[[Writer], None], folder: Path) -> None:
    """Unpack the tar stream that `read_into(writer)` writes into a folder.

    Raises what `read_into` raises; AdapterError when the stream is no tar file or the disk is full.
    """
    read_end, write_end = os.pipe()
    problems: list[Exception] = []

    def unpack() -> None:
        try:
            with os.fdopen(read_end, "rb") as pipe:
                _unpack_members(pipe, folder)
        except Exception as error:
            problems.append(error)

    # `read_into` stays on the caller's thread: it may use what belongs to a thread, such as its
    # connection to the console's database.
    thread = threading.Thread(target=unpack, daemon=True)
    thread.start()
    pipe = os.fdopen(write_end, "wb")
    try:
        with suppress(BrokenPipeError):
            read_into(pipe)
    finally:
        with suppress(BrokenPipeError):
            pipe.close()
        thread.join()
    if problems:
        raise problems[0]


def _unpack_members(pipe: IO[bytes], folder: Path) -> None:
    try:
        with tarfile.open(fileobj=pipe, mode="r|") as archive:
            for member in archive:
                _unpack_member(archive, member, folder)
        while pipe.read(CHUNK_BYTES):
            pass
    except (tarfile.TarError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AdapterError(f"cannot unpack the archive: {reason}") from error
