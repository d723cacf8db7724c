"""Keep a claimed run's lease, and hear when it is to stop."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import DatabaseError, connections

from opsconsole.exceptions import AdapterError, FencedOut, Refused
from opsconsole.runs import services as runs
from opsconsole.runs.choices import RunStatus
from opsconsole.targets.server import TargetLock

if TYPE_CHECKING:
    from opsconsole.runs.step import RunContext

RETRY_SECONDS = 0.1
# Set when this worker is asked to end: its runs then take the cancel path.
worker_is_ending = threading.Event()


class LeaseKeeper:
    """A thread that renews the lease, reads the cancel flag, and checks the target's lock.

    When the lease cannot be renewed before it runs out, the run is fenced: its statements are
    cancelled, its tools end, and nothing more is written. A second thread sees to that, for the
    first may be waiting for an answer that never comes.
    """

    def __init__(
        self, context: RunContext, lock: TargetLock | None, *, is_over: bool = False
    ) -> None:
        """`is_over`: the steps are done, so that nobody can stop them any more."""
        self._context = context
        self._lock = lock
        self._is_over = is_over
        self._lease = context.recorder.lease
        self._renew_at = time.monotonic() + settings.LEASE_RENEW_SECONDS
        self._done = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name="lease", daemon=True),
            threading.Thread(target=self._fence_in_time, name="fence", daemon=True),
        ]
        self._told_to_stop = False

    def __enter__(self) -> LeaseKeeper:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(timeout=10)

    def _run(self) -> None:
        poll = pause = settings.CANCEL_POLL_SECONDS
        try:
            while not self._done.wait(pause) and not self._lease.is_over:
                pause = poll if self._look() else min(poll, RETRY_SECONDS)
        except (FencedOut, AdapterError) as error:
            if not self._done.is_set():
                if isinstance(error, AdapterError):
                    # The claim holds: whoever reads how the lost run ended learns what was lost.
                    self._context.log(f"stopped: {error}", "no")
                self._context.fence(str(error))
        finally:
            connections.close_all()

    def _fence_in_time(self) -> None:
        while not self._done.wait(self._lease.seconds_left):
            if self._lease.is_over:
                self._context.fence("the console's database is away")
                return

    def _look(self) -> bool:
        """Ask once, and act on it; False when the console's database did not answer."""
        try:
            status = self._ask()
            if not self._is_over:
                self._hear(status)
        except DatabaseError:
            connections.close_all()
            return False
        return True

    def _ask(self) -> RunStatus:
        """Renew the lease where it is time to; the status either way."""
        asked_at = time.monotonic()
        if asked_at < self._renew_at:
            return runs.current_status(self._context.run)
        status = runs.renew_lease(self._context.run)
        self._lease.renewed(asked_at)
        self._renew_at = asked_at + settings.LEASE_RENEW_SECONDS
        if self._lock:
            self._lock.check()
        return status

    def _hear(self, status: RunStatus) -> None:
        if worker_is_ending.is_set() and status == RunStatus.RUNNING:
            self._cancel_for_shutdown()
        if status == RunStatus.CANCELLING and not self._told_to_stop:
            self._told_to_stop = True
            self._context.log("cancel: asked to stop", "hm")
            self._context.stop()

    def _cancel_for_shutdown(self) -> None:
        try:
            runs.cancel_for_shutdown(self._context.run)
        except Refused:
            return
