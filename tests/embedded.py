"""Pytest plugin, loaded before Django: real PostgreSQL and Valkey for each test process.

Servers are the console's own embedded ones, in a folder that goes when the process ends.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests import scratch

TIME_SCALE = "0.05"


def _starts_here() -> bool:
    """Not in the process that only hands tests out to others."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return True
    joined = " ".join(sys.argv)
    return " -n" not in joined and "--collect-only" not in joined


def start() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    for name in ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "OPSCONSOLE_ENCRYPTION_KEYS"):
        os.environ.pop(name, None)
    scratch.use_memory()
    # Each process that a test starts would compile the console anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    folder = Path(tempfile.mkdtemp(prefix="opsc-"))
    folder.chmod(0o711)
    os.environ["OPSCONSOLE_HOME"] = str(folder / "home")
    os.environ["OPSCONSOLE_TIME_SCALE"] = TIME_SCALE
    os.environ["OPSCONSOLE_MIGRATIONS_ROOTS"] = str(folder)
    if not _starts_here():
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return
    import psycopg

    from opsconsole.embedded import postgres
    from opsconsole.embedded.home import Home
    from opsconsole.project import launch

    postgres.SETTINGS |= {
        "wal_level": "logical",
        "max_prepared_transactions": "5",
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
    }
    home = Home(folder / "home")
    home.prepare()
    for name in ("logs", "static"):
        (home.path / name).mkdir(exist_ok=True)
    launcher = launch.Launcher(home, dict(os.environ), lambda _line: None)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(launcher.stop_all)
    launch.start_servers(launcher)
    with psycopg.connect(home.read_addresses().superuser_dsn, autocommit=True) as connection:
        connection.execute("ALTER ROLE opsconsole CREATEDB")


start()
