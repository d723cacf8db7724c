"""Restore an archive into an empty database, checking its bytes on the way."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from psycopg import sql

from backups_app.archives.archive import unpack_tar
from backups_app.archives.dump import ToolSession, running_tool
from backups_app.stores.kinds import Writer
from opsconsole.exceptions import AdapterError
from opsconsole.targets.dsn import Dsn
from opsconsole.targets.event_triggers import EventTrigger
from opsconsole.targets.tools import ClientTools

# What `pg_restore --list` prints before kind, schema or "-", name and owner.
LISTED = re.compile(r"^\d+; \d+ \d+ ")


@dataclass(frozen=True)
class Restoration:
    """What pg_restore does: into which database, with how many jobs, keeping owners or not.

    More than one job, or a directory archive, takes a private temporary folder under
    `scratch_folder` that holds the archive uncompressed. `without` are the entries of the
    archive's list that are not made, as `entries_of` gives them.
    """

    database: str
    format: str
    jobs: int
    keeps_owners: bool
    scratch_folder: Path
    without: tuple[str, ...] = ()

    @property
    def needs_folder(self) -> bool:
        return self.jobs > 1 or self.format == "directory"

    def arguments(self) -> list[str]:
        return [
            "--exit-on-error",
            "--no-publications",
            "--no-subscriptions",
            *([] if self.keeps_owners else ["--no-owner", "--no-privileges"]),
        ]

    def leaves_out(self, line: str) -> bool:
        """Whether a line of the archive's list is of something that is not made."""
        return LISTED.sub("", line).startswith(self.without)


def entries_of(triggers: Iterable[EventTrigger]) -> tuple[str, ...]:
    """How `pg_restore --list` names event triggers, their functions and what hangs on them.

    Up to the owner. A comment or a right names its object as SQL does: in quotes where the name
    needs them.
    """
    entries = set()
    for each in triggers:
        entries |= {f"EVENT TRIGGER - {each.name}", f"FUNCTION {each.schema} {each.function}()"}
        for function in (each.function, _quoted(each.function)):
            entries |= {
                f"{kind} {each.schema} FUNCTION {function}()" for kind in ("ACL", "COMMENT")
            }
        for name in (each.name, _quoted(each.name)):
            entries.add(f"COMMENT - EVENT TRIGGER {name}")
    return tuple(f"{entry} " for entry in sorted(entries))


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string(None)


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
    if not how.needs_folder and not how.without:
        _restore_stream(tools, dsn, how, read_into, session, on_progress)
        return
    with _private_folder(how) as folder:
        if not how.needs_folder:
            chosen = _chosen(
                tools,
                how,
                folder,
                lambda argv: _feed(argv, dsn, session, read_into, needs_all=False),
            )
            _restore_stream(tools, dsn, how, read_into, session, on_progress, chosen)
            return
        archive = _unpacked(how, folder, lambda w: read_into(_Counting(w, on_progress)))
        chosen = _chosen(tools, how, folder, lambda argv: _run([*argv, str(archive)], dsn, session))
        argv = [
            tools.pg_restore,
            *how.arguments(),
            *chosen,
            f"--jobs={how.jobs}",
            *dsn.tool_arguments(how.database),
            str(archive),
        ]
        _run(argv, dsn, session)


@contextmanager
def _private_folder(how: Restoration) -> Iterator[Path]:
    how.scratch_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="restore-", dir=how.scratch_folder) as name:
        yield Path(name)


def _chosen(
    tools: ClientTools, how: Restoration, folder: Path, run: Callable[[list[str]], None]
) -> list[str]:
    """Arguments that leave out what is not made: a list of the archive, which `run` has it write."""
    if not how.without:
        return []
    contents = folder / "contents"
    run([tools.pg_restore, "--list", f"--file={contents}"])
    lines = contents.read_text(errors="surrogateescape").splitlines(keepends=True)
    kept = "".join(line for line in lines if not how.leaves_out(line))
    contents.write_text(kept, errors="surrogateescape")
    return [f"--use-list={contents}"]


def _run(argv: list[str], dsn: Dsn, session: ToolSession) -> None:
    with running_tool(argv, dsn, session) as tool:
        for _line in tool.chunks():
            pass
        tool.finish()


def _feed(
    argv: list[str],
    dsn: Dsn,
    session: ToolSession,
    read_into: Callable[[Writer], None],
    *,
    needs_all: bool = True,
    on_progress: Callable[[int], None] = lambda _count: None,
) -> None:
    """Run a tool on the archive. One that reads only its beginning may close its input early."""
    with running_tool(argv, dsn, session, writes_to_it=True) as tool:
        try:
            read_into(_Counting(tool.stdin, on_progress))
        except BrokenPipeError:
            tool.finish()
            if needs_all:
                raise AdapterError("pg_restore closed its input early") from None
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
    chosen: Sequence[str] = (),
) -> None:
    argv = [tools.pg_restore, *how.arguments(), *chosen, *dsn.tool_arguments(how.database)]
    _feed(argv, dsn, session, read_into, on_progress=on_progress)


def decode_archive(
    tools: ClientTools,
    how: Restoration,
    read_into: Callable[[Writer], None],
    *,
    dsn: Dsn,
    session: ToolSession,
) -> None:
    """Read the whole archive to nowhere (`pg_restore --file=/dev/null`): proof level 1."""
    argv = [tools.pg_restore, "--file=/dev/null"]
    if how.format == "directory":
        with _private_folder(how) as folder:
            unpack_tar(read_into, folder)
            _run([*argv, str(folder)], dsn, session)
        return
    _feed(argv, dsn, session, read_into)
