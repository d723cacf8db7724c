"""The verbs of `manage.py ops demo`: put the demo back, break it, mend it, load it."""

from __future__ import annotations

import argparse
import signal
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from django.conf import settings

from migrations_app.services.migrations import request_observation
from opsconsole.demo.address import APPLICATION, dsn_of, find
from opsconsole.demo.traffic import Traffic
from opsconsole.environments.models import Environment
from opsconsole.exceptions import Refused
from opsconsole.project import demo

DONE = 0


class DemoVerbs:
    """Mixed into the command, which prints and holds the options."""

    if TYPE_CHECKING:
        options: argparse.Namespace
        stdout: Any

        def print(self, document: Any, lines: list[str]) -> None: ...

    def add_demo(self, verbs: Any, common: argparse.ArgumentParser) -> None:
        things = verbs.add_parser("demo", help="the demo application").add_subparsers(
            dest="thing", required=True, metavar="THING"
        )
        again = things.add_parser("reset", help="put everything back", parents=[common])
        again.add_argument("environment", nargs="?", default="", help="only this one")
        things.add_parser("services", help="list the backends to run", parents=[common])
        things.add_parser("mend", help="take broken migrations away", parents=[common])
        broken = things.add_parser("break-sql", help="add one that fails", parents=[common])
        broken.add_argument("--non-atomic", action="store_true")
        things.add_parser("break-health", help="add one that breaks /health", parents=[common])
        traffic = things.add_parser(
            "traffic", help="read and write until stopped", parents=[common]
        )
        traffic.add_argument("environment")
        traffic.add_argument("--clients", type=int, default=10)
        traffic.add_argument("--seconds", type=float, default=0, help="stop by itself after")

    def do_reset(self) -> int:
        try:
            demo.reset(self.options.environment.rpartition("/")[2])
        except KeyError:
            raise Refused(f"the demo has no environment {self.options.environment}") from None
        self._read_demo_again()
        self.print({"reset": True}, ["the demo is as on the first start"])
        return DONE

    def do_services(self) -> int:
        for name, argument in demo.services():
            self.stdout.write(f"{name}\t{argument}")
        return DONE

    def do_mend(self) -> int:
        gone = demo.mend()
        self._read_demo_again()
        self.print(gone, [f"took {name} away" for name in gone] or ["nothing was broken"])
        return DONE

    def do_break_sql(self) -> int:
        text = demo.BREAK_NON_ATOMIC if self.options.non_atomic else demo.BREAK_SQL
        return self._broke(demo.break_with(text, "add_payout_approval"))

    def do_break_health(self) -> int:
        return self._broke(demo.break_with(demo.BREAK_HEALTH, "rename_target_amount"))

    def _broke(self, name: str) -> int:
        self._read_demo_again()
        self.print({"added": name}, [f"added {name}; `ops demo mend` takes it away"])
        return DONE

    def _read_demo_again(self) -> None:
        """Pages show the change at once; without a worker they show it once there is one."""
        for environment in Environment.objects.filter(application__slug=APPLICATION):
            with suppress(Refused):
                request_observation(environment)

    def do_traffic(self) -> int:
        slug = self.options.environment.rpartition("/")[2]
        try:
            dsn = dsn_of(settings.OPSCONSOLE_HOME, find(slug))
        except KeyError:
            raise Refused(f"the demo has no environment {slug}") from None
        traffic = Traffic(dsn, self.options.clients)
        stopped: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda n, _f: stopped.append(n))
        began = datetime.now(UTC)
        traffic.start()
        while not stopped:
            time.sleep(0.1)
            seconds = (datetime.now(UTC) - began).total_seconds()
            if self.options.seconds and seconds > self.options.seconds:
                break
        rows = traffic.stop()
        self.print(rows, [f"client {r['client']:2}: {r['answers']:6} answers, longest gap "
                          f"{r['longest_gap_ms']:8.1f} ms, errors {r['errors'] or 'none'}"
                          for r in rows])  # fmt: skip
        return DONE
