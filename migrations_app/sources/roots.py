"""The folders below which migrations may lie on the workers: of the settings, and added since.

What was added is in a file of the data folder, read at each use: it takes no restart, and takes
nothing away that the settings name.
"""

from __future__ import annotations

from pathlib import Path

from django.conf import settings

from opsconsole.exceptions import AdapterError

FILE = "migrations-roots"


def allowed_roots() -> list[Path]:
    try:
        added = _file().read_text().splitlines()
    except FileNotFoundError:
        added = []
    return [*settings.MIGRATIONS_ROOTS, *(Path(line) for line in added if line)]


def checked_root(folder: str) -> Path:
    """The folder, resolved. Raises AdapterError for one that cannot be meant to be allowed."""
    path = Path(folder)
    if not path.is_absolute() or "\n" in folder:
        raise AdapterError(f"{folder!r} is no absolute path: give one that begins with /")
    path = path.resolve()
    if not path.is_dir():
        raise AdapterError(f"{path} is no folder here; run this where the workers run")
    if path == Path("/"):
        raise AdapterError("the whole machine is no folder of migrations: name one below /")
    return path


def add_root(path: Path) -> None:
    """Allow a folder that was checked, and all that is below it."""
    if path not in [root.resolve() for root in allowed_roots()]:
        with _file().open("a") as file:
            file.write(f"{path}\n")


def _file() -> Path:
    return Path(settings.OPSCONSOLE_HOME.path) / FILE
