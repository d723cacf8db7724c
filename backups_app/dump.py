"""Dump a database into one compressed, hashed file in a single pass."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import zstandard

from opsconsole.exceptions import AdapterError
from opsconsole.runner.process import Tool, allowed_environment, password_file
from opsconsole.targets.dsn import Dsn
from opsconsole.targets.tools import ClientTools

COMPRESSION_LEVEL = 1


@dataclass(frozen=True)
class ToolSession:
    """How a tool of a run reports, is stopped, and is named on the server.

    `is_stopping` is asked ten times a second; `heartbeat_seconds` is the silence after which
    the tool ends by itself, `grace_seconds` the time between TERM and KILL.
    """

    application_name: str
    on_line: Callable[[str], None]
    is_stopping: Callable[[], bool]
    heartbeat_seconds: float
    grace_seconds: float


@dataclass(frozen=True)
class DumpResult:
    """Sizes in bytes, before and after compression; SHA-256 (hex) of the stored bytes."""

    raw_bytes: int
    size_bytes: int
    sha256: str


def dump_database(
    tools: ClientTools,
    dsn: Dsn,
    destination: Path,
    *,
    snapshot: str,
    session: ToolSession,
    on_progress: Callable[[int], None],
) -> DumpResult:
    """Write `pg_dump -Fc` of an exported snapshot to `destination`, compressed with zstd.

    The dump itself is uncompressed (-Z0), because not every pg_dump knows zstd; the stream is
    compressed here. `on_progress(raw bytes so far)`. Raises AdapterError with the tool's or
    the disk's reason, or when told to stop; the file is then incomplete.
    """
    argv = [tools.pg_dump, "--format=custom", "--compress=0", "--lock-wait-timeout=60s",
            f"--snapshot={snapshot}", *dsn.tool_arguments()]  # fmt: skip
    digest, raw, stored = hashlib.sha256(), 0, 0
    with password_file(dsn.passfile_line()) as passfile:
        environment = allowed_environment(
            **dsn.tool_environment(passfile, session.application_name)
        )
        with start_tool(argv, session, environment, passfile) as tool:
            compressor = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL).compressobj()
            try:
                with destination.open("wb") as file:
                    for chunk in tool.chunks():
                        raw += len(chunk)
                        data = compressor.compress(chunk)
                        digest.update(data)
                        stored += file.write(data)
                        on_progress(raw)
                    data = compressor.flush()
                    digest.update(data)
                    stored += file.write(data)
            except OSError as error:
                raise AdapterError(f"cannot write the archive: {error.strerror}") from error
            tool.finish()
    if raw == 0:
        raise AdapterError("pg_dump printed nothing")
    return DumpResult(raw, stored, digest.hexdigest())


def start_tool(
    argv: list[str],
    session: ToolSession,
    environment: dict[str, str],
    passfile: int,
    *,
    writes_to_it: bool = False,
) -> Tool:
    return Tool(
        argv,
        on_line=session.on_line,
        is_stopping=session.is_stopping,
        environment=environment,
        heartbeat_seconds=session.heartbeat_seconds,
        grace_seconds=session.grace_seconds,
        keep_fds=(passfile,),
        writes_to_it=writes_to_it,
    )
