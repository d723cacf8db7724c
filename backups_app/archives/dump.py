"""Run pg_dump on an exported snapshot, as one stream or in parallel through a private folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from backups_app.archives.archive import tar_of
from opsconsole.processes.process import Tool, allowed_environment, password_file
from opsconsole.targets import ddl_log
from opsconsole.targets.dsn import Dsn
from opsconsole.targets.tools import ClientTools

# Not every pg_dump knows zstd: the archive is written plain, and compressed in the stream.
COMMON = ("--compress=0", "--lock-wait-timeout=60s", f"--exclude-schema={ddl_log.SCHEMA}")


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
class Snapshot:
    """An exported snapshot by its name, and the encoding of its database. A dump is in that one,
    whatever the role has its sessions in."""

    name: str
    encoding: str

    def arguments(self) -> list[str]:
        return [f"--snapshot={self.name}", f"--encoding={self.encoding}"]


def dump_stream(
    tools: ClientTools, dsn: Dsn, *, snapshot: Snapshot, session: ToolSession
) -> Iterator[bytes]:
    """Yield `pg_dump -Fc` of the snapshot. Raises AdapterError with the tool's reason."""
    argv = [
        tools.pg_dump,
        "--format=custom",
        *COMMON,
        *snapshot.arguments(),
        *dsn.tool_arguments(),
    ]
    with running_tool(argv, dsn, session) as tool:
        yield from tool.chunks()
        tool.finish()


def dump_folder(
    tools: ClientTools,
    dsn: Dsn,
    folder: Path,
    *,
    jobs: int,
    snapshot: Snapshot,
    session: ToolSession,
    on_progress: Callable[[int], None],
) -> Iterator[bytes]:
    """Write `pg_dump -Fd -j jobs` to `folder`, then yield it as a tar stream.

    `folder` must not exist yet; `on_progress(bytes in it)` while pg_dump writes. Raises
    AdapterError with the tool's reason.
    """
    argv = [
        tools.pg_dump,
        "--format=directory",
        f"--jobs={jobs}",
        f"--file={folder}",
        *COMMON,
        *snapshot.arguments(),
        *dsn.tool_arguments(),
    ]
    with running_tool(argv, dsn, session) as tool:
        while tool.supervised.poll() is None:
            on_progress(_bytes_in(folder))
            time.sleep(0.2)
        tool.finish()
    yield from tar_of(folder)


def dump_globals(tools: ClientTools, dsn: Dsn, session: ToolSession) -> bytes:
    """The server's roles as SQL, without their passwords (`pg_dumpall --globals-only`)."""
    argv = [tools.pg_dumpall, "--globals-only", "--no-role-passwords", *dsn.tool_arguments()]
    with running_tool(argv, dsn, session) as tool:
        text = b"".join(tool.chunks())
        tool.finish()
    return text


def _bytes_in(folder: Path) -> int:
    try:
        return sum(path.stat().st_size for path in folder.iterdir())
    except FileNotFoundError:
        return 0


@contextmanager
def running_tool(
    argv: list[str], dsn: Dsn, session: ToolSession, *, writes_to_it: bool = False
) -> Iterator[Tool]:
    """The tool, started with the target's password; it is ended when the block is left."""
    with password_file(dsn.passfile_line()) as passfile:
        environment = allowed_environment(
            **dsn.tool_environment(passfile, session.application_name)
        )
        with Tool(
            argv,
            on_line=session.on_line,
            is_stopping=session.is_stopping,
            environment=environment,
            heartbeat_seconds=session.heartbeat_seconds,
            grace_seconds=session.grace_seconds,
            keep_fds=(passfile,),
            writes_to_it=writes_to_it,
        ) as tool:
            yield tool
