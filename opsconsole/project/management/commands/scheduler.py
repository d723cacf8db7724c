"""`manage.py scheduler`: sweep, reap, and send what is due. One leads, a second one waits."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import DatabaseError, connection, connections

from opsconsole.access.guessing import forget_old_guesses
from opsconsole.audit.refusals import record_strangers
from opsconsole.environments.drafts import forget_old_drafts
from opsconsole.environments.models import Target
from opsconsole.exceptions import Refused
from opsconsole.health import services as health
from opsconsole.runs import retention
from opsconsole.runs import services as runs
from opsconsole.runs.registry import PERIODIC
from opsconsole.work import services as work
from opsconsole.work.sending import TaskKey, send_short

logger = logging.getLogger("opsconsole.scheduler")
LEADER_LOCK = 0x0B5C0


class Command(BaseCommand):
    help = "Send queued runs again, find lost ones, and sample health. Needs no broker to reap."
    requires_system_checks = []

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._stop = threading.Event()
        self._due: dict[tuple[str, int], float] = {}
        self._housekeeping_at = 0.0

    def handle(self, *_args: Any, **_options: Any) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._stop.set())
        while not self._stop.wait(settings.SCHEDULER_TICK_SECONDS):
            self.look()

    def look(self) -> None:
        """Do what is due if this process leads; what the console's database does not take waits."""
        try:
            if self._leads():
                self._tick()
        except (DatabaseError, Refused) as error:
            # Refused: the audit trail could not be written.
            logger.warning("the console's database is away: %s", type(error).__name__)
            connections.close_all()

    def _leads(self) -> bool:
        """Whether this process holds the leader's lock; taking it twice on a session is free."""
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = %s"
                " AND classid = 0 AND pid = pg_backend_pid()) OR pg_try_advisory_lock(%s)",
                [LEADER_LOCK, LEADER_LOCK],
            )
            return bool(cursor.fetchone()[0])

    def _tick(self) -> None:
        runs.reap_expired()
        record_strangers()
        if self._send_what_is_due():
            runs.sweep_queued()
            work.sweep()
        if time.monotonic() > self._housekeeping_at:
            self._housekeeping_at = time.monotonic() + 3600
            health.forget_old_samples()
            forget_old_drafts()
            forget_old_guesses()
            work.forget_done()
            retention.part_log()
            retention.delete_old_logs()

    def _send_what_is_due(self) -> bool:
        """Send each hint in its own time; False when the broker is away, and what is left stays due.

        It is then asked no more in this tick: a try may cost seconds, and reaping must not wait.
        """
        for task, object_id, seconds in _hints():
            now = time.monotonic()
            if now < self._due.get((task, object_id), 0):
                continue
            # Expires: a queue that was away must not answer with a flood.
            if not send_short(task, object_id, expires=max(seconds, 5)):
                return False
            self._due[(task, object_id)] = now + seconds
        return True


def _hints() -> Iterator[tuple[TaskKey, int, float]]:
    """What is sent again and again: the task, its object, and the seconds from one to the next."""
    for run_id in runs.lost_runs():
        yield runs.RESOLVE_LOST_RUN, run_id, 5 * settings.TIME_SCALE
    for target in Target.objects.shown():
        for periodic in PERIODIC:
            yield periodic.task, periodic.about(target), getattr(settings, periodic.setting)
