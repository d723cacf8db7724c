"""Restore an archive into an empty database, checking its bytes on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import zstandard

from backups_app.dump import ToolSession, start_tool
from opsconsole.exceptions import AdapterError
from opsconsole.runner.process import allowed_environment, password_file
from opsconsole.targets.dsn import Dsn
from opsconsole.targets.tools import ClientTools

CHUNK_BYTES = 256 * 1024


def restore_archive(
    tools: ClientTools,
    dsn: Dsn,
    archive: Path,
    *,
    database: str,
    sha256: str,
    keeps_owners: bool,
    session: ToolSession,
    on_progress: Callable[[int], None],
) -> None:
    """Feed a zstd-compressed custom archive to pg_restore into `database`.

    Raises AdapterError when the stored bytes differ from `sha256`, do not decompress, or
    pg_restore stops at an error or is told to stop. `on_progress(raw bytes fed)`.
    """
    argv = [tools.pg_restore, "--exit-on-error", "--no-publications", "--no-subscriptions",
            *([] if keeps_owners else ["--no-owner", "--no-privileges"]),
            *dsn.tool_arguments(database)]  # fmt: skip
    digest = hashlib.sha256()
    with password_file(dsn.passfile_line()) as passfile:
        environment = allowed_environment(
            **dsn.tool_environment(passfile, session.application_name)
        )
        with start_tool(argv, session, environment, passfile, writes_to_it=True) as tool:
            try:
                fed = 0
                for chunk in _decompressed(archive, digest):
                    tool.stdin.write(chunk)
                    fed += len(chunk)
                    on_progress(fed)
            except BrokenPipeError:
                tool.finish()
                raise AdapterError("pg_restore closed its input early") from None
            if digest.hexdigest() != sha256:
                raise AdapterError("the archive is corrupt: its checksum is not the recorded one")
            tool.finish()


def _decompressed(archive: Path, digest: hashlib._Hash) -> Iterator[bytes]:
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    try:
        with archive.open("rb") as file:
            while stored := file.read(CHUNK_BYTES):
                digest.update(stored)
                if chunk := decompressor.decompress(stored):
                    yield chunk
    except zstandard.ZstdError as error:
        raise AdapterError(f"the archive is corrupt: it does not decompress ({error})") from None
    except OSError as error:
        raise AdapterError(f"cannot read the archive: {error.strerror}") from error
    if not decompressor.eof:
        raise AdapterError("the archive is corrupt: it ends too early")
