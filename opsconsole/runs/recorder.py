"""The one place where what a run says is stored: redacted, numbered, fenced by its claim."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from django.conf import settings
from django.db import DatabaseError, connections, transaction
from django.db.models.functions import Now

from opsconsole.exceptions import FencedOut
from opsconsole.redaction import redact
from opsconsole.runs.backlog import Backlog
from opsconsole.runs.choices import RunStatus, StepStatus
from opsconsole.runs.lines import Line, lines_of
from opsconsole.runs.models import LogChunk, Run, Step, summed
from opsconsole.runs.patience import Lease
from opsconsole.sentences import Sentence, Text

logger = logging.getLogger(__name__)
MAX_LINES = 500
MAX_BYTES = 64 * 1024
# In one transaction: each costs a few answers of the console's database, for which a thread that
# logs without a pause lets this one wait.
MAX_CHUNKS = 10
RETRY_SECONDS = 0.1


class Recorder:
    """Keeps log lines and stores them by a thread of its own, every 250 ms, or when a transaction's
    fill waits (MAX_CHUNKS rows of at most 500 lines and 64 KiB).

    Use as a context manager: leaving it stores what is left. Lines wait while the console's
    database is away; whoever logs does not, but ending a step and leaving do, as long as the
    lease lasts. `fenced` becomes true when the run's claim is gone; nothing is written from then on.
    """

    def __init__(self, run: Run, secrets: Iterable[str] = (), lease: Lease | None = None) -> None:
        self.run = run
        self.lease = lease or Lease()
        self.fenced = False
        # Replaced, never changed: threads that redact go through the one they found.
        self._secrets = frozenset(secrets)
        # As it was said, until there is enough for a chunk or it is time to store.
        self._said: list[Line] = []
        self._said_size = 0
        self._listening = threading.Lock()
        self._backlog = Backlog(
            Path(settings.LOG_SPILL_FOLDER), settings.LOG_MEMORY_BYTES, settings.LOG_SPILL_BYTES
        )
        # What is being stored: kept as it is until it is known to be.
        self._batch: list[list[Line]] = []
        self._guard = threading.Lock()
        self._writing = threading.Lock()
        self._closed = threading.Event()
        self._full = threading.Event()
        self._step: Step | None = None
        self._progress: tuple[float, float | None, Text] | None = None
        self._thread = threading.Thread(target=self._store_regularly, daemon=True)

    def __enter__(self) -> Recorder:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._closed.set()
        self._full.set()
        self._thread.join(timeout=10)
        try:
            if not self.fenced:
                self.flush()
        finally:
            self._end()

    def hide(self, secret: str) -> None:
        """Keep another secret out of whatever is recorded from now on, by any thread."""
        with self._guard:
            self._secrets |= {secret}

    def redact(self, text: str) -> str:
        return redact(text, self._secrets)

    def redacted(self, text: Text) -> Text:
        return text.changed(self.redact) if isinstance(text, Sentence) else self.redact(text)

    def log(self, text: str, tone: str = "") -> None:
        """Add the lines of a text; `tone` is "", "ok", "no" or "hm"."""
        size = len(text)
        with self._listening:
            self._said.append((time.time(), tone, text))
            self._said_size += size
            if len(self._said) >= MAX_LINES or self._said_size >= MAX_BYTES:
                self._make_lines()

    def _make_lines(self) -> None:
        """Under `_listening`, so that lines stay in the order in which they were said."""
        said, self._said, self._said_size = self._said, [], 0
        lines = lines_of(said, self._secrets)
        for start in range(0, len(lines), MAX_LINES):
            self._backlog.add(lines[start : start + MAX_LINES])
        if self._backlog.holds(MAX_CHUNKS * MAX_LINES, MAX_CHUNKS * MAX_BYTES):
            self._full.set()

    def flush(self) -> None:
        """Store the lines that wait. Raises FencedOut when the claim is gone or the lease over."""
        while self.lease.patiently(self._store_next):
            pass

    def _store_next(self) -> bool:
        """Store the progress and the first lines; returns whether there were any."""
        with self._writing:
            self._store_progress()
            self._batch = self._batch or self._take()
            if not self._batch:
                return False
            self._store(self._batch)
            self._batch = []
            return True

    def _take(self) -> list[list[Line]]:
        with self._listening:
            self._make_lines()
        chunks: list[list[Line]] = []
        while len(chunks) < MAX_CHUNKS and (lines := self._backlog.take(MAX_LINES, MAX_BYTES)):
            chunks.append(lines)
        return chunks

    def _store(self, batch: list[list[Line]]) -> None:
        chunks: list[LogChunk] = []
        last = self.run.log_seq
        for lines in batch:
            first, last = last + 1, last + len(lines)
            chunks.append(LogChunk(run=self.run, first_seq=first, last_seq=last, lines=lines))
        with transaction.atomic():
            held = Run.objects.filter(
                pk=self.run.pk,
                claim_token=self.run.claim_token,
                status__in=[*RunStatus.claimed(), RunStatus.LOST],
                log_seq=self.run.log_seq,
            ).update(log_seq=last)
            if held:
                # One row a statement: many go as arrays, whose quoting is slow for such long values.
                LogChunk.objects.bulk_create(chunks, batch_size=1)
        if not held and not self._are_stored(chunks, last):
            self._fence()
        self.run.log_seq = last

    def _are_stored(self, chunks: list[LogChunk], last: int) -> bool:
        """Whether an earlier try stored them, and only its acknowledgement was lost."""
        holds = Run.objects.filter(
            pk=self.run.pk, claim_token=self.run.claim_token, log_seq=last
        ).exists()
        there = LogChunk.objects.filter(run=self.run, first_seq__gte=chunks[0].first_seq)
        stored = list(there.order_by("first_seq").values_list("first_seq", "lines"))
        ours = [(chunk.first_seq, [list(line) for line in chunk.lines]) for chunk in chunks]
        return holds and stored == ours

    def _fence(self) -> None:
        self.fenced = True
        raise FencedOut(f"run {self.run.pk}: the claim is gone, nothing more is written")

    def progress(self, percent: float, eta_seconds: float | None, detail: Text) -> None:
        """How far the step is; `detail` stands where its summary will."""
        with self._guard:
            self._progress = (round(percent, 1), eta_seconds, self.redacted(detail))

    def _store_progress(self) -> None:
        progress, step = self._progress, self._step
        if progress and step:
            self._change(step, progress=progress[0], eta_seconds=progress[1], **summed(progress[2]))
        with self._guard:
            if self._progress is progress:
                self._progress = None

    def plan_steps(self, names: list[str]) -> None:
        """Write the steps to come, so that the page can show them."""
        start = self.lease.patiently(Step.objects.filter(run=self.run).count)
        steps = [
            Step(run=self.run, position=start + index, name=name)
            for index, name in enumerate(names)
        ]
        self.lease.patiently(lambda: self._add(steps))

    def _add(self, steps: list[Step]) -> None:
        with transaction.atomic():
            own = Run.objects.filter(pk=self.run.pk, claim_token=self.run.claim_token)
            if not own.select_for_update().exists():
                self._fence()
            # Those that are there are ours: their places were free under this claim.
            Step.objects.bulk_create(steps, ignore_conflicts=True)

    def begin_step(self, name: str) -> None:
        pending = Step.objects.filter(run=self.run, name=name, status=StepStatus.PENDING)
        step = self.lease.patiently(pending.first)
        assert step is not None
        self.lease.patiently(
            lambda: self._change(step, status=StepStatus.RUNNING, started_at=Now())
        )
        self._step = step

    def end_step(self, status: StepStatus, summary: Text) -> None:
        step, self._step = self._step, None
        if step:
            self.flush()
            self.lease.patiently(lambda: self._end_step(step, status, self.redacted(summary)))

    def _end_step(self, step: Step, status: StepStatus, summary: Text) -> None:
        # Not while the other thread still writes how far it is.
        with self._writing:
            self._change(
                step,
                status=status,
                finished_at=Now(),
                eta_seconds=None,
                **summed(summary),
                progress=100 if status == StepStatus.SUCCEEDED else None,
            )

    def _change(self, step: Step, **fields: object) -> None:
        """One UPDATE of the step while the claim holds, the same however often it is done."""
        own = Step.objects.filter(pk=step.pk, run__claim_token=self.run.claim_token)
        if not own.update(**fields):
            self._fence()

    def skip_pending(self) -> None:
        pending = Step.objects.filter(
            run=self.run, run__claim_token=self.run.claim_token, status=StepStatus.PENDING
        )
        self.lease.patiently(lambda: pending.update(status=StepStatus.SKIPPED))

    def _store_regularly(self) -> None:
        try:
            while not self._closed.is_set():
                self._full.wait(settings.LOG_FLUSH_SECONDS)
                self._full.clear()
                self._store_all()
        except FencedOut:
            return
        finally:
            connections.close_all()

    def _store_all(self) -> None:
        try:
            while self._store_next():
                pass
        except DatabaseError:
            # The lease keeper decides how long the console's database may be away.
            connections.close_all()
            self._closed.wait(RETRY_SECONDS)

    def _end(self) -> None:
        with self._listening:
            self._make_lines()
        if left := sum(map(len, self._batch)) + len(self._backlog):
            logger.warning("run %s: %d lines of its log could not be stored", self.run.pk, left)
        self._backlog.close()
