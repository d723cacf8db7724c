"""Restore an archive into an empty database, checking its bytes on the way."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backups_app.archive import unpack_tar
from backups_app.dump import ToolSession, running_tool
from backups_app.stores.kinds import Writer
from opsconsole.exceptions import AdapterError
from opsconsole.targets.dsn import Dsn
from opsconsole.targets.tools import ClientTools


@dataclass(frozen=True)
class Restoration:
    """What pg_restore does: into which database, with how many jobs, keeping owners or not.

    More than one job, or a directory archive, takes a private temporary folder under
    `scratch_folder` that holds the archive uncompressed.
    """

    database: str
    format: str
    jobs: int
    keeps_owners: bool
    scratch_folder: Path

    @property
    def needs_folder(self) -> bool:
        return self.jobs > 1 or self.format == "directory"

    def arguments(self) -> list[str]:
        return [
            "--exit-on-error", "--no-publications", "--no-subscriptions",
            *([] if self.keeps_owners else ["--no-owner", "--no-privileges"]),
        ]  # fmt: skip


class _Counting:
    def __init__(self, taker: Writer, on_progress: Callable[[int], None]) -> None:
        self._taker, self._on_progress, self._count = taker, on_progress, 0

    def write(self, data: bytes) -> None:
        self._taker.write(data)
        self._count += len(data)
        self._on_progress(self._count)


def restore_archive(
    tools: ClientTools,
    dsn: Dsn,
    how: Restoration,
    read_into: Callable[[Writer], None],
    *,
    session: ToolSession,
    on_progress: Callable[[int], None],
) -> None:
    """Restore what `read_into(writer)` writes: the archive as pg_dump made it.

    Raises AdapterError when `read_into` finds the archive corrupt, pg_restore stops at an error
    or is told to stop. `on_progress(raw bytes fed)`.
    """
    if not how.needs_folder:
        _restore_stream(tools, dsn, how, read_into, session, on_progress)
        return
    how.scratch_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="restore-", dir=how.scratch_folder) as name:
        archive = _unpacked(how, Path(name), lambda w: read_into(_Counting(w, on_progress)))
        argv = [tools.pg_restore, *how.arguments(), f"--jobs={how.jobs}",
                *dsn.tool_arguments(how.database), str(archive)]  # fmt: skip
        with running_tool(argv, dsn, session) as tool:
            for _line in tool.chunks():
                pass
            tool.finish()


def _unpacked(how: Restoration, folder: Path, read_into: Callable[[Writer], None]) -> Path:
    if how.format == "directory":
        unpack_tar(read_into, folder)
        return folder
    archive = folder / "archive.dump"
    try:
        with archive.open("wb") as file:
            read_into(file)
    except OSError as error:
        raise AdapterError(f"cannot unpack the archive: {error.strerror}") from error
    return archive


def _restore_stream(
    tools: ClientTools,
    dsn: Dsn,
    how: Restoration,
    read_into: Callable[[Writer], None],
    session: ToolSession,
    on_progress: Callable[[int], None],
) -> None:
    argv = [tools.pg_restore, *how.arguments(), *dsn.tool_arguments(how.database)]
    with running_tool(argv, dsn, session, writes_to_it=True) as tool:
        try:
            read_into(_Counting(tool.stdin, on_progress))
        except BrokenPipeError:
            tool.finish()
            raise AdapterError("pg_restore closed its input early") from None
        tool.finish()


def decode_archive(
    tools: ClientTools,
    how: Restoration,
    read_into: Callable[[Writer], None],
    *,
    dsn: Dsn,
    session: ToolSession,
) -> None:
    """Read the whole archive to nowhere (`pg_restore --file=/dev/null`): proof level 1."""
    if how.format == "directory":
        how.scratch_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="decode-", dir=how.scratch_folder) as name:
            unpack_tar(read_into, Path(name))
            _decode([tools.pg_restore, "--file=/dev/null", name], dsn, session)
        return
    argv = [tools.pg_restore, "--file=/dev/null"]
    with running_tool(argv, dsn, session, writes_to_it=True) as tool:
        try:
            read_into(tool.stdin)
        except BrokenPipeError:
            tool.finish()
            raise AdapterError("pg_restore closed its input early") from None
        tool.finish()


def _decode(argv: list[str], dsn: Dsn, session: ToolSession) -> None:
    with running_tool(argv, dsn, session) as tool:
        tool.finish()
