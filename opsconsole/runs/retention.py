"""Logs of runs go by the partition: dropping a table costs the same for any number of lines.

The table of log chunks is parted by ranges of run numbers, which rise with time. The newest range
has no end, so that every line has its partition whether or not anybody parted the table in time.
It is given an end, and a successor, when it holds the runs of a month; the ends of ranges are kept
nowhere but in the server's catalogue.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from django.conf import settings
from django.db import OperationalError, connection, models, transaction
from django.db.models.functions import Coalesce
from psycopg.errors import LockNotAvailable

from opsconsole.clock import months_ago
from opsconsole.events import recording as audit
from opsconsole.runs import events
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.models import DeletedLogs, Run

logger = logging.getLogger(__name__)
# Below PostgreSQL's deadlock_timeout: whoever is in the way, it is this that gives way.
LOCK_WAIT = "500ms"
# A bound is told as `FOR VALUES FROM ('1') TO ('523')`, or MINVALUE and MAXVALUE.
PARTITIONS = r"""
    SELECT
        part.relname,
        substring(bound from 'FROM \(''(\d+)''\)')::bigint,
        substring(bound from 'TO \(''(\d+)''\)')::bigint
    FROM pg_inherits
    JOIN pg_class part ON part.oid = inhrelid
    CROSS JOIN pg_get_expr(part.relpartbound, part.oid) bound
    WHERE inhparent = 'opsconsole_logchunk'::regclass
    ORDER BY 2 NULLS FIRST
"""
# Taken off and put back with its end: the bounds of a partition cannot be changed in place. The
# server reads it once, to see that it holds nothing beyond: a second for a million chunks.
PART = """
    ALTER TABLE opsconsole_logchunk DETACH PARTITION "{name}";
    ALTER TABLE opsconsole_logchunk ATTACH PARTITION "{name}" FOR VALUES FROM ({first}) TO ({end});
    CREATE TABLE "opsconsole_logchunk_{end}" PARTITION OF opsconsole_logchunk
        FOR VALUES FROM ({end}) TO (MAXVALUE)
"""


@dataclass(frozen=True)
class Partition:
    """The table `name` holds the chunks of the runs from `first` to before `end`; None: no bound."""

    name: str
    first: int | None
    end: int | None

    @property
    def runs(self) -> models.QuerySet[Run]:
        found = Run.objects.filter(pk__gte=self.first or 0).order_by("pk")
        return found if self.end is None else found.filter(pk__lt=self.end)


def partitions() -> list[Partition]:
    """Oldest first; the last one has no end."""
    with connection.cursor() as cursor:
        cursor.execute(PARTITIONS)
        return [Partition(*row) for row in cursor.fetchall()]


def part_log() -> None:
    """Let the runs to come have a partition of their own, once the newest holds a month's.

    Waits for no more than a moment for others; what cannot be had is left for the next time.
    """
    with _patient_for_a_moment():
        if _is_full(partitions()[-1]):
            with _alone("SHARE ROW EXCLUSIVE"):
                newest = partitions()[-1]
                if _is_full(newest):
                    _part(newest)


def delete_old_logs() -> None:
    """Drop each partition whose runs all ended more than LOG_MONTHS ago; audited.

    A run that has not ended keeps its partition. Waits and gives up as `part_log`.
    """
    with _patient_for_a_moment():
        if settings.LOG_MONTHS > 0 and any(map(_is_old, partitions())):
            # It is the other end of a foreign key of the partition.
            with _alone("ACCESS EXCLUSIVE"):
                for partition in filter(_is_old, partitions()):
                    _drop(partition)


def _is_full(partition: Partition) -> bool:
    first = Run.objects.filter(pk__in=partition.runs.values("pk")[:1])
    return first.filter(created_at__lt=months_ago(1)).exists()


def _is_old(partition: Partition) -> bool:
    if partition.end is None:
        return False
    runs = partition.runs.annotate(ended_at=Coalesce("finished_at", "created_at"))
    ended = [status for status in RunStatus if status.is_terminal]
    return not runs.exclude(status__in=ended, ended_at__lt=months_ago(settings.LOG_MONTHS)).exists()


@contextmanager
def _patient_for_a_moment() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        if not isinstance(error.__cause__, LockNotAvailable):
            raise
        logger.info("the table of log chunks is in use: its partitions are looked at again later")


@contextmanager
def _alone(mode: str) -> Iterator[None]:
    """A transaction in which nobody makes or changes a run, or reads or writes a log.

    Runs are locked first, as whoever stores lines does. What was seen before has to be seen again.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_WAIT}'")
        cursor.execute(f"LOCK TABLE opsconsole_run IN {mode} MODE")
        cursor.execute("LOCK TABLE ONLY opsconsole_logchunk IN ACCESS EXCLUSIVE MODE")
        yield


def _part(newest: Partition) -> None:
    first = "MINVALUE" if newest.first is None else newest.first
    end = Run.objects.latest("pk").pk + 1
    with connection.cursor() as cursor:
        cursor.execute(PART.format(name=newest.name, first=first, end=end))


def _drop(partition: Partition) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f'DROP TABLE "{partition.name}"')
    first, end, months = partition.first or 1, partition.end or 0, settings.LOG_MONTHS
    DeletedLogs.objects.create(first_run=first, end_run=end, kept_months=months)
    audit.record(
        events.LOGS_DELETED,
        actor=None,
        data=events.LogsDeleted(first_run=first, last_run=end - 1, kept_months=months),
    )
