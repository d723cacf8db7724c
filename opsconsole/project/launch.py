"""What `manage.py up` does: start every process of the console, keep them, end them all."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from opsconsole.embedded.home import Home, HomeUnusable
from opsconsole.embedded.postgres import EmbeddedPostgres
from opsconsole.embedded.valkey import EmbeddedValkey
from opsconsole.formats import duration, size
from opsconsole.processes.process import Supervised, wait_all

STOP_SECONDS = 20
BACKOFF_SECONDS = (0.5, 1, 2, 5, 10, 30)
STEADY_SECONDS = 60
# A swap completes, or reopens the live database, within its window of 3 s: it is not cut short.
SWAP_GRACE_SECONDS = 4
FREE_BYTES_NEEDED = 200_000_000


@dataclass
class Service:
    """A process to keep running, and how to stop it."""

    name: str
    argv: list[str]
    grace: float = 8
    orphan_grace: float = 0
    stop_signal: str = "SIGTERM"
    death_signal: str = "SIGKILL"
    account: tuple[int, int] | None = None
    process: Supervised | None = None
    failures: int = 0
    started: float = 0
    start_again_at: float = 0


@dataclass
class Launcher:
    """Starts services, restarts what dies with backoff, and stops everything in order."""

    home: Home
    environment: dict[str, str]
    say: Callable[[str], None]
    time_scale: float = 1
    servers: list[Service] = field(default_factory=list)
    services: list[Service] = field(default_factory=list)
    _stops: int = 0

    def start(self, service: Service) -> None:
        log = (self.home.path / "logs" / f"{service.name}.log").open("ab")
        with log:
            service.process = Supervised(
                service.argv,
                environment=self.environment,
                grace_seconds=service.grace,
                orphan_grace_seconds=service.orphan_grace,
                stop_signal=service.stop_signal,
                death_signal=service.death_signal,
                account=service.account,
                stdout=log,
                stderr=log,
                cwd="/" if service.account else None,
            )
        service.started = time.monotonic()

    def watch(self) -> None:
        """Restart what dies until a stop is asked for."""
        while not self._stops:
            for service in (*self.servers, *self.services):
                self._look_after(service)
            time.sleep(0.2)

    def on_signal(self, _number: int, _frame: object) -> None:
        self._stops += 1

    @property
    def is_stopping(self) -> bool:
        return self._stops > 0

    def stop_all(self) -> None:
        """Services first, so that they can still write; PostgreSQL last. A second signal kills."""
        for group in (self.services, self.servers):
            running = [s.process for s in group if s.process and s.process.poll() is None]
            for process in running:
                process.stop()
            deadline = time.monotonic() + STOP_SECONDS
            while running and time.monotonic() < deadline and self._stops < 2:
                running = wait_all(running, 0.2)
            for process in running:
                process.kill()
            wait_all(running, 5)

    def _look_after(self, service: Service) -> None:
        now = time.monotonic()
        if service.process and service.process.poll() is None:
            if now - service.started > STEADY_SECONDS * self.time_scale:
                service.failures = 0
            return
        if service.process:
            status = service.process.wait()
            step = min(service.failures, len(BACKOFF_SECONDS) - 1)
            delay = BACKOFF_SECONDS[step] * self.time_scale
            service.failures += 1
            service.start_again_at = now + delay
            service.process = None
            self.say(
                f"{service.name} ended with status {status}; starting it again in {duration(delay)}"
            )
        if now >= service.start_again_at:
            if service.name == "postgres":
                EmbeddedPostgres(self.home).prepare()
            self.start(service)


def require_free_port(bind: str, port: int) -> None:
    """Raise HomeUnusable when something else already listens there."""
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((bind, port))
        except OSError as error:
            why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error})"
            raise HomeUnusable(
                f"port {port} of {bind} {why}; set OPSCONSOLE_PORT to another"
            ) from error


def require_free_disk(home: Home) -> None:
    free = shutil.disk_usage(home.path).free
    if free < FREE_BYTES_NEEDED:
        raise HomeUnusable(
            f"the disk of {home.path} is full: {size(free)} free, {size(FREE_BYTES_NEEDED)} needed"
        )


def start_servers(launcher: Launcher) -> None:
    """Start the embedded PostgreSQL and Valkey and record their addresses in the home."""
    postgres = EmbeddedPostgres(launcher.home)
    valkey = EmbeddedValkey(launcher.home)
    postgres.prepare()
    valkey.prepare()
    own = os.geteuid() == postgres.account.uid
    # Valkey is stopped first: the list is stopped together, and PostgreSQL takes longer.
    launcher.servers += [
        Service("valkey", valkey.argv, grace=5),
        Service(
            "postgres",
            postgres.argv,
            grace=4,
            stop_signal="SIGINT",
            death_signal="SIGQUIT",
            account=None if own else (postgres.account.uid, postgres.account.gid),
        ),
    ]
    for service in launcher.servers:
        launcher.start(service)
    process = launcher.servers[-1].process
    assert process is not None
    postgres.wait_until_ready(lambda: process.poll() is None)
    postgres.ensure_console_database(valkey.url)


def console_services(bind: str, port: int, runs: int = 4) -> list[Service]:
    """The console's own processes."""
    python = sys.executable
    manage = str(Path(__file__).resolve().parents[2] / "manage.py")
    address = f"[{bind}]:{port}" if ":" in bind else f"{bind}:{port}"
    worker = [
        python,
        "-m",
        "celery",
        "-A",
        "opsconsole.project",
        "worker",
        "--pool=threads",
        "--without-gossip",
        "--without-mingle",
        "--loglevel=WARNING",
    ]
    return [
        Service(
            "web",
            [
                python,
                "-m",
                "gunicorn",
                "opsconsole.project.wsgi",
                "--bind",
                address,
                "--worker-class=gthread",
                "--threads=16",
                "--workers=1",
                "--timeout=60",
                "--graceful-timeout=3",
                # The console itself judges whose headers count: opsconsole/web/proxies.py.
                "--forwarded-allow-ips=",
                "--no-control-socket",
            ],
            grace=5,
        ),
        Service(
            "worker-runs",
            [*worker, "-Q", "runs", f"--concurrency={runs}", "-n", "runs@%h"],
            grace=18,
            orphan_grace=SWAP_GRACE_SECONDS,
        ),
        Service("worker-short", [*worker, "-Q", "short", "--concurrency=4", "-n", "short@%h"]),
        Service("scheduler", [python, manage, "scheduler"], grace=5),
    ]


def install_signal_handlers(launcher: Launcher) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, launcher.on_signal)
