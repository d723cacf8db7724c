"""Do one item of the work list: claim it, keep its lease, record how it ended."""

from __future__ import annotations

import logging
import threading

import psycopg
from django.conf import settings
from django.db import DatabaseError, connections

from opsconsole.exceptions import ConsoleError, FencedOut
from opsconsole.targets.server import reason_of
from opsconsole.work import services as work
from opsconsole.work.models import WorkItem
from opsconsole.work.registry import WORK

logger = logging.getLogger(__name__)


def do_work(item_id: int) -> None:
    """Do the item if it is this worker's to do; a failed one is tried again later.

    A worker that is killed leaves its lease, and another one tries again when that is over.
    """
    item = work.claim(item_id)
    if item is None:
        return
    try:
        _attempt(item)
    except FencedOut as error:
        logger.warning("%s: %s", item, error)


def _attempt(item: WorkItem) -> None:
    try:
        with _Lease(item):
            record = WORK[item.work].handle(item.arguments)
        work.finish(item, record)
    except FencedOut:
        raise
    except Exception as error:
        logger.warning(
            "%s failed, attempt %s: %s",
            item,
            item.attempts,
            type(error).__name__,
            exc_info=settings.DEBUG,
        )
        work.give_back(item, _words_for(error))


def _words_for(error: Exception) -> str:
    """What people are shown. The text of an error that we do not know may hold a secret."""
    if isinstance(error, ConsoleError):
        return str(error)
    if isinstance(error, psycopg.Error):
        return reason_of(error)
    return f"unexpected {type(error).__name__}"


class _Lease:
    """A thread that renews the lease of an item while its handler works."""

    def __init__(self, item: WorkItem) -> None:
        self._item = item
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="work-lease", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_error: object) -> None:
        self._done.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        try:
            while not self._done.wait(settings.LEASE_RENEW_SECONDS):
                try:
                    work.renew(self._item)
                except FencedOut:
                    return
                except DatabaseError:
                    connections.close_all()
        finally:
            connections.close_all()
