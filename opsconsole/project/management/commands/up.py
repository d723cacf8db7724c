"""`manage.py up`: the whole console, from nothing to a page in a browser."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from opsconsole.embedded.home import HomeUnusable
from opsconsole.project import launch


class Command(BaseCommand):
    help = "Set up and run the console: servers, web, workers, scheduler, and the demo."
    requires_system_checks = []

    def handle(self, *_args: Any, **_options: Any) -> None:
        try:
            self._run()
        except HomeUnusable as error:
            sys.exit(f"ops console: {error}")
        except OSError as error:
            sys.exit(f"ops console: {error.strerror}: {error.filename or settings.OPSCONSOLE_HOME}")

    def _run(self) -> None:
        home = settings.OPSCONSOLE_HOME
        home.prepare()
        lock = home.lock()
        launch.require_free_disk(home)
        launch.require_free_port(settings.BIND, settings.PORT)
        (home.path / "logs").mkdir(mode=0o700, exist_ok=True)
        environment = os.environ | {
            "OPSCONSOLE_HOME": str(home.path),
            "DJANGO_SETTINGS_MODULE": "opsconsole.project.settings",
            "PYTHONPATH": str(settings.BASE_DIR),
            "PYTHONUNBUFFERED": "1",
        }
        launcher = launch.Launcher(home, environment, self._say, settings.TIME_SCALE)
        launch.install_signal_handlers(launcher)
        try:
            if settings.EMBEDDED:
                self._say("starting PostgreSQL and Valkey")
                launch.start_servers(launcher)
            how_to_sign_in = self._prepare(environment)
            launcher.services = launch.console_services(settings.BIND, settings.PORT)
            if settings.DEMO:
                launcher.services += self._demo_backends(environment)
            for service in launcher.services:
                launcher.start(service)
            self._say(f"open http://{settings.BIND}:{settings.PORT}/ and {how_to_sign_in}")
            self._say("stop with Ctrl-C")
            launcher.watch()
            self._say("stopping")
        finally:
            launcher.stop_all()
            os.close(lock)
        self._say("stopped")

    def _prepare(self, environment: dict[str, str]) -> str:
        """Bring the console's database up to date in a process that reads the new addresses."""
        done = subprocess.run(
            [sys.executable, str(settings.BASE_DIR / "manage.py"), "prepare"],
            env=environment,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise HomeUnusable(f"setting up failed: {lines[-1] if lines else 'no output'}")
        for line in done.stderr.strip().splitlines():
            self._say(line)
        return done.stdout.strip().splitlines()[-1]

    def _demo_backends(self, environment: dict[str, str]) -> list[launch.Service]:
        done = subprocess.run(
            [sys.executable, str(settings.BASE_DIR / "manage.py"), "ops", "demo", "services"],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return [
            launch.Service(f"demo-{name}", [sys.executable, "-m", "opsconsole.demo.backend", path])
            for name, path in (line.split("\t") for line in done.stdout.strip().splitlines())
        ]

    def _say(self, line: str) -> None:
        print(f"ops console: {line}", flush=True)
