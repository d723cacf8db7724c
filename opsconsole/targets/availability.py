"""Measure, as an application would see it, whether a target answers while a run changes it."""

from __future__ import annotations

import select
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn

from opsconsole.targets.dsn import Dsn

BINS = 48
RETRY_SECONDS = 0.005
# An application gives up sooner; a server that is stuck would be waited for without end.
ANSWER_SECONDS = 5


@dataclass
class Answers:
    """Every sample as (seconds since the epoch, latency in ms; None for a failure)."""

    samples: list[tuple[float, float | None]] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """`down_ms` in all, `outages` [{at, ms}], the slowest answer, and bins for a strip.

        An outage lasts from the last answer before it to the first answer after it, which is
        what a client sees. In `bins`, 2 holds a failure, 1 an answer slower than 10 times the
        median and 50 ms, 0 is good and None holds no sample.
        """
        outages = self._outages()
        good = [(at, ms) for at, ms in self.samples if ms is not None]
        slowest = max(good, key=lambda sample: sample[1], default=(0.0, 0.0))
        return {
            "samples": len(self.samples),
            "failed": len(self.samples) - len(good),
            "down_ms": round(sum(outage["ms"] for outage in outages), 1),
            "outages": outages,
            "slowest_ms": round(slowest[1], 1),
            "slowest_at": slowest[0],
            "bins": self._bins(sorted(ms for _at, ms in good)),
        }

    def _outages(self) -> list[dict[str, float]]:
        outages: list[dict[str, float]] = []
        last_good: float | None = None
        failing = False
        for at, latency in self.samples:
            if latency is None:
                failing = True
                continue
            answered = at + latency / 1000
            if failing:
                began = last_good if last_good is not None else self.samples[0][0]
                outages.append({"at": began, "ms": round((answered - began) * 1000, 1)})
            failing, last_good = False, answered
        if failing:
            began = last_good if last_good is not None else self.samples[0][0]
            outages.append({"at": began, "ms": round((self.samples[-1][0] - began) * 1000, 1)})
        return outages

    def _bins(self, latencies: list[float]) -> list[int | None]:
        if not self.samples:
            return [None] * BINS
        slow = max(50.0, 10 * latencies[len(latencies) // 2]) if latencies else 50.0
        start = self.samples[0][0]
        width = max(self.samples[-1][0] - start, 0.001) / BINS
        bins: list[int | None] = [None] * BINS
        for at, latency in self.samples:
            index = min(int((at - start) / width), BINS - 1)
            value = 2 if latency is None else int(latency > slow)
            bins[index] = max(bins[index] or 0, value)
        return bins


class AvailabilitySampler:
    """A thread that asks `SELECT 1` every `interval_seconds`, reconnecting when cut off."""

    def __init__(self, dsn: Dsn, application_name: str, interval_seconds: float) -> None:
        self._conninfo = dsn.conninfo(application_name=application_name)
        self._interval = interval_seconds
        self._stop = threading.Event()
        self._connection: psycopg.Connection | None = None
        self._thread = threading.Thread(target=self._run, name="availability", daemon=True)
        self.answers = Answers()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> dict[str, Any]:
        """Stop sampling; returns the summary."""
        self._stop.set()
        self._thread.join(timeout=15)
        return self.answers.summary()

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.time()
            latency = self._ask()
            self.answers.samples.append((began, latency))
            pause = self._interval - (time.time() - began) if latency is not None else RETRY_SECONDS
            if pause > 0:
                self._stop.wait(pause)
        if self._connection:
            self._connection.close()

    def _ask(self) -> float | None:
        began = time.perf_counter()
        try:
            if self._connection is None or self._connection.closed:
                self._connection = psycopg.connect(self._conninfo, autocommit=True)
            _select_one(self._connection.pgconn, time.monotonic() + ANSWER_SECONDS)
        except psycopg.Error:
            if self._connection:
                self._connection.close()
            self._connection = None
            return None
        return (time.perf_counter() - began) * 1000


def _select_one(line: PGconn, deadline: float) -> None:
    """Raises psycopg.OperationalError for another answer than a row, and for none in time."""
    line.send_query(b"SELECT 1")
    statuses = []
    while True:
        while line.is_busy():
            _wait_for_bytes(line.socket, deadline)
            line.consume_input()
        result = line.get_result()
        if result is None:
            break
        statuses.append(result.status)
    if statuses != [ExecStatus.TUPLES_OK]:
        raise psycopg.OperationalError("it does not answer SELECT 1")


def _wait_for_bytes(descriptor: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise psycopg.OperationalError("timed out")
