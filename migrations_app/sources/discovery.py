"""Find the migrations in what somebody is about to add: a git repository, or a folder. On a worker."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from migrations_app.engines import ENGINES
from migrations_app.engines.folder import not_text
from migrations_app.models import Repository
from migrations_app.sources import git
from migrations_app.sources.folders import allowed_folder, as_read
from opsconsole.exceptions import AdapterError

MOST_TRIED = 12
MOST_FILES = 100_000
DEEPEST = 8
# What tools bring along is not what the project wrote.
NOT_LOOKED_INTO = {"node_modules", "vendor", "dist", "build"}


@dataclass(frozen=True)
class FoundFolder:
    """A folder with migrations of one tool. `folder` is as the settings name it."""

    engine: str
    folder: str
    migrations: int
    tool_version: str = ""


@dataclass(frozen=True)
class Discovery:
    """The folders found, the most migrations first. `ref` and `commit` are "" for a folder."""

    folders: list[FoundFolder]
    ref: str = ""
    commit: str = ""

    def stored(self) -> dict[str, Any]:
        return asdict(self)


def is_folder(source: str) -> bool:
    """Whether what somebody typed names a folder of the workers, and not a repository."""
    return source.startswith("/")


def discover(source: str, *, ref: str = "", sealed: str = "") -> Discovery:
    """Find the migrations; `sealed` is the sealed token or key of a repository.

    Raises AdapterError for what can neither be fetched nor read.
    """
    if is_folder(source):
        return _in_folder(allowed_folder(source))
    repository = as_read(Repository(url=source, secret_encrypted=sealed))
    revision, paths = git.list_files(repository, ref)
    found, problems = [], []
    for engine, inside in _candidates(paths):
        try:
            folder, _revision = git.read_folder(repository, revision.commit, str(inside))
        except AdapterError as error:
            # One folder that cannot be written out (a link in it) hides no other.
            problems.append(error)
        else:
            found.append(_look(engine, folder, str(inside)))
    if problems and not any(each.migrations for each in found):
        raise problems[0]
    return Discovery(_sorted(found), revision.ref, revision.commit)


def usual_folders(source: str) -> list[FoundFolder]:
    """Where each tool keeps its migrations, for a project that has none yet."""
    root = f"{source.rstrip('/')}/" if is_folder(source) else ""
    return [
        FoundFolder(name, root + engine.usual_folder, 0)
        for name, engine in ENGINES.items()
        if engine.label == engine.tool
    ]


def project_name(source: str) -> str:
    """A name for what somebody typed: "Sales commission" of https://host/team/sales-commission.git."""
    path = PurePosixPath(source if is_folder(source) else _path_of(source))
    usual = {part for engine in ENGINES.values() for part in Path(engine.usual_folder).parts}
    parts = [part for part in path.parts if part not in usual | {"/", "."}]
    words = parts[-1].removesuffix(".git").replace("-", " ").replace("_", " ") if parts else ""
    return words[:1].upper() + words[1:]


def _path_of(url: str) -> str:
    return url.partition(":")[2] if git.SCP_LIKE.fullmatch(url) else urlsplit(url).path


def _in_folder(root: Path) -> Discovery:
    if not root.is_dir():
        raise AdapterError(f"{root} is no folder on the workers")
    found = [
        _look(engine, root / inside, str(root / inside))
        for engine, inside in _candidates(_files_of(root))
    ]
    return Discovery(_sorted(found))


def _files_of(root: Path) -> Iterable[PurePosixPath]:
    """The files below a folder, by their place in it. Raises AdapterError for too many."""
    seen = 0
    for place, folders, names in os.walk(root):
        inside = PurePosixPath(Path(place).relative_to(root))
        is_deepest = len(inside.parts) >= DEEPEST
        folders[:] = [] if is_deepest else [f for f in folders if not f.startswith(".")]
        folders[:] = [folder for folder in folders if folder not in NOT_LOOKED_INTO]
        seen += len(names)
        if seen > MOST_FILES:
            raise AdapterError(f"{root} holds too many files: name the folder of the migrations")
        # Whatever is no text could not be named in the settings.
        yield from (inside / name for name in names if not not_text(str(inside / name)))


def _candidates(paths: Iterable[PurePosixPath]) -> list[tuple[str, PurePosixPath]]:
    """Engine and folder of what looks like migrations, those with most files first."""
    seen: Counter[tuple[str, PurePosixPath]] = Counter()
    for path in paths:
        if NOT_LOOKED_INTO.intersection(path.parts):
            continue
        for name, engine in ENGINES.items():
            folder = engine.folder_of(path)
            if folder is not None:
                seen[(name, folder)] += 1
    return [candidate for candidate, _files in seen.most_common(MOST_TRIED)]


def _look(engine: str, folder: Path, shown: str) -> FoundFolder:
    """Read a candidate as its engine does: what the tool would refuse is none of its migrations."""
    try:
        reading = ENGINES[engine](folder).read_folder()
    except AdapterError:
        return FoundFolder(engine, shown, 0)
    usable = [script for script in reading.scripts if not script.refusal]
    return FoundFolder(engine, shown, len(usable), reading.tool_version)


def _sorted(found: list[FoundFolder]) -> list[FoundFolder]:
    return sorted(
        (each for each in found if each.migrations),
        key=lambda each: (-each.migrations, each.folder),
    )
