"""The one place where what a run says is stored: redacted, numbered, fenced by its claim."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from django.conf import settings
from django.db import DatabaseError, connections, transaction
from django.db.models.functions import Now

from opsconsole.exceptions import FencedOut
from opsconsole.formats import size
from opsconsole.runs.choices import RunStatus, StepStatus
from opsconsole.runs.models import LogChunk, Run, Step

MAX_LINES = 500
MAX_BYTES = 64 * 1024
MAX_LINE_BYTES = 16 * 1024
REDACTED = "•••"


def redact(text: str, secrets: Iterable[str]) -> str:
    """Replace every secret by dots, the longest first."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, REDACTED)
    return text


def clean_line(text: str) -> str:
    """Drop NUL and control characters, and what exceeds 16 KiB, saying so."""
    text = "".join(c for c in text if c == "\t" or c.isprintable())
    encoded = text.encode(errors="replace")
    if len(encoded) <= MAX_LINE_BYTES:
        return text
    kept = encoded[:MAX_LINE_BYTES].decode(errors="ignore")
    return f"{kept} … ({size(len(encoded) - MAX_LINE_BYTES)} cut)"


class Recorder:
    """Buffers log lines and writes them every 250 ms, 500 lines or 64 KiB.

    Use as a context manager: leaving it writes what is left. `fenced` becomes true when the
    run's claim is gone; nothing is written from then on.
    """

    def __init__(self, run: Run, secrets: Iterable[str] = ()) -> None:
        self.run = run
        self.fenced = False
        # Replaced, never changed: threads that redact go through the one they found.
        self._secrets = frozenset(secrets)
        self._lines: list[tuple[float, str, str]] = []
        self._bytes = 0
        self._guard = threading.Lock()
        self._writing = threading.Lock()
        self._closed = threading.Event()
        self._step: Step | None = None
        self._progress: tuple[float, float | None, str] | None = None
        self._thread = threading.Thread(target=self._flush_regularly, daemon=True)

    def __enter__(self) -> Recorder:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._closed.set()
        self._thread.join(timeout=10)
        if not self.fenced:
            self.flush()

    def hide(self, secret: str) -> None:
        """Keep another secret out of whatever is recorded from now on, by any thread."""
        with self._guard:
            self._secrets |= {secret}

    def redact(self, text: str) -> str:
        return redact(text, self._secrets)

    def log(self, text: str, tone: str = "") -> None:
        """Add lines; `tone` is "", "ok", "no" or "hm". A secret split by nothing but us is caught:
        redaction sees the whole text before it is split into lines."""
        now = time.time()
        for line in self.redact(text).splitlines() or [""]:
            cleaned = clean_line(line)
            with self._guard:
                self._lines.append((now, tone, cleaned))
                self._bytes += len(cleaned)
                is_full = len(self._lines) >= MAX_LINES or self._bytes >= MAX_BYTES
            if is_full:
                self.flush()

    def flush(self) -> None:
        """Write the buffered lines. Raises FencedOut when the claim is gone."""
        with self._writing:
            with self._guard:
                lines, self._lines, self._bytes = self._lines, [], 0
                progress, self._progress = self._progress, None
            if progress and self._step:
                Step.objects.filter(pk=self._step.pk).update(
                    progress=progress[0], eta_seconds=progress[1], summary=progress[2]
                )
            if lines:
                self._write(lines)

    def _write(self, lines: list[tuple[float, str, str]]) -> None:
        first = self.run.log_seq + 1
        last = self.run.log_seq + len(lines)
        with transaction.atomic():
            held = Run.objects.filter(
                pk=self.run.pk,
                claim_token=self.run.claim_token,
                status__in=[*RunStatus.claimed(), RunStatus.LOST],
                log_seq=self.run.log_seq,
            ).update(log_seq=last)
            if not held:
                self.fenced = True
                raise FencedOut(f"run {self.run.pk}: the claim is gone, nothing more is written")
            LogChunk.objects.create(run=self.run, first_seq=first, last_seq=last, lines=lines)
        self.run.log_seq = last

    def progress(self, percent: float, eta_seconds: float | None, detail: str) -> None:
        """How far the step is; `detail` stands where its summary will."""
        with self._guard:
            self._progress = (round(percent, 1), eta_seconds, self.redact(detail))

    def plan_steps(self, names: list[str]) -> None:
        """Write the steps to come, so that the page can show them."""
        start = Step.objects.filter(run=self.run).count()
        Step.objects.bulk_create(
            Step(run=self.run, position=start + index, name=name)
            for index, name in enumerate(names)
        )

    def begin_step(self, name: str) -> None:
        step = Step.objects.filter(run=self.run, name=name, status=StepStatus.PENDING).first()
        assert step is not None
        Step.objects.filter(pk=step.pk).update(status=StepStatus.RUNNING, started_at=Now())
        self._step = step

    def end_step(self, status: StepStatus, summary: str) -> None:
        if self._step:
            self.flush()
            Step.objects.filter(pk=self._step.pk).update(
                status=status, summary=self.redact(summary), finished_at=Now(), eta_seconds=None,
                progress=100 if status == StepStatus.SUCCEEDED else None,
            )  # fmt: skip
        self._step = None

    def skip_pending(self) -> None:
        Step.objects.filter(run=self.run, status=StepStatus.PENDING).update(
            status=StepStatus.SKIPPED
        )

    def _flush_regularly(self) -> None:
        try:
            while not self._closed.wait(settings.LOG_FLUSH_SECONDS):
                try:
                    self.flush()
                except FencedOut:
                    return
                except DatabaseError:
                    # The lease keeper decides how long the console's database may be away.
                    continue
        finally:
            connections.close_all()
