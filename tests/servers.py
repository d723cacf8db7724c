"""A PostgreSQL 15 server of Debian's, for tests that need a second version or one they may hurt."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from tests.chaos.console import free_port
from tests.toolbox import postgres15


@dataclass
class Server:
    """A cluster of its own. `dsn` is the superuser's; `kill()` and `start()` as often as wanted."""

    folder: Path
    port: int
    account: dict[str, Any]
    process: subprocess.Popen | None = None

    @property
    def dsn(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start it; again while backends of a killed one still hold its shared memory."""
        for _attempt in range(600):
            if self.process is None or self.process.poll() is not None:
                self._launch()
            try:
                psycopg.connect(self.dsn).close()
                return
            except psycopg.OperationalError:
                time.sleep(0.05)
        raise AssertionError("the server did not start")

    def _launch(self) -> None:
        self.process = subprocess.Popen(
            [
                Path(postgres15()) / "postgres",
                "-D",
                self.folder / "data",
                "-p",
                str(self.port),
                "-k",
                self.folder,
                "-h",
                "127.0.0.1",
                "-c",
                "fsync=off",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            **self.account,
        )

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.wait(timeout=30)


@contextmanager
def postgres_15() -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="opsc-pg15-"))
    account: dict[str, Any] = {}
    if os.geteuid() == 0:
        entry = pwd.getpwnam("postgres")
        account = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        os.chown(folder, entry.pw_uid, entry.pw_gid)
    subprocess.run(
        [Path(postgres15()) / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust"],
        check=True,
        capture_output=True,
        cwd="/",
        **account,
    )
    server = Server(folder, free_port(), account)
    try:
        server.start()
        yield server
    finally:
        if server.process and server.process.poll() is None:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)
