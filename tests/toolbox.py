"""Which outside tools the tests can use here. `python -m tests.toolbox` prints it."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path


@cache
def chromium() -> str:
    """Path of the system's Chromium, or ""."""
    return next(
        (
            found
            for name in ("chromium", "chromium-browser", "google-chrome")
            if (found := shutil.which(name))
        ),
        "",
    )


def node_modules() -> Path:
    """Where `npm install` in tests/node puts what the tests need."""
    return Path(__file__).parent / "node" / "node_modules"


@cache
def prisma() -> str:
    """Path of the Prisma CLI under tests/node, or ""."""
    cli = node_modules() / ".bin" / "prisma"
    return str(cli) if cli.exists() and shutil.which("node") else ""


@cache
def dbmate() -> str:
    """Path of dbmate under tests/node, or ""."""
    cli = node_modules() / ".bin" / "dbmate"
    return str(cli) if cli.exists() and shutil.which("node") else ""


@cache
def azurite() -> str:
    """Path of Azure's storage emulator under tests/node, or ""."""
    server = node_modules() / ".bin" / "azurite-blob"
    return str(server) if server.exists() and shutil.which("node") else ""


@cache
def postgres15() -> str:
    """Folder of Debian's PostgreSQL 15 server, or ""."""
    folder = Path("/usr/lib/postgresql/15/bin")
    return str(folder) if (folder / "postgres").exists() else ""


@cache
def pgbouncer() -> str:
    """Path of Debian's PgBouncer, or ""."""
    return shutil.which("pgbouncer", path="/usr/sbin:/usr/bin") or ""


@cache
def age() -> str:
    """Path of the age tool, where zstd is there too, or ""."""
    return (shutil.which("age") or "") if shutil.which("zstd") else ""


MISSING = {
    "needs_age": (age, "age and zstd are not installed"),
    "needs_azurite": (azurite, "Node packages are not installed: npm install in tests/node"),
    "needs_browser": (chromium, "Chromium is not installed"),
    "needs_dbmate": (dbmate, "Node packages are not installed: npm install in tests/node"),
    "needs_prisma": (prisma, "Node packages are not installed: npm install in tests/node"),
    "needs_pgbouncer": (pgbouncer, "Debian's pgbouncer is not installed"),
    "needs_postgres15": (postgres15, "Debian's postgresql-15 is not installed"),
}


def main() -> None:
    for marker, (find, why) in MISSING.items():
        print(f"{marker}: {find() or f'skipped, {why}'}")
    if prisma():
        subprocess.run(["node", "--version"], check=False)


if __name__ == "__main__":
    main()
