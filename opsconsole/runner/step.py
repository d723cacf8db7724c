"""The contract of a step, and what it is given.

A step has a `name` and a `run(context)` that returns one line for people. It raises
StepFailed for an expected failure, NeedsAttention when it cannot know the outcome, and
Cancelled at a point of its own choice after `context.check()` told it to. It never calls
another step; what later steps need it leaves in `context.notes`.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic

import psycopg
from typing_extensions import TypeVar

from opsconsole.exceptions import Cancelled, FencedOut
from opsconsole.models import Environment, Run
from opsconsole.runner.documents import Parameters
from opsconsole.runner.recorder import Recorder
from opsconsole.targets import server
from opsconsole.targets.dsn import Dsn

# A step that is content with less fits into every operation that has more.
P_co = TypeVar("P_co", bound=Parameters, default=Parameters, covariant=True)
P_contra = TypeVar("P_contra", bound=Parameters, default=Parameters, contravariant=True)


class Step(ABC, Generic[P_contra]):
    """One part of an operation, for every operation whose parameters are (also) `P_contra`."""

    name: ClassVar[str]

    @abstractmethod
    def run(self, context: RunContext[P_contra]) -> str:
        """Do it; returns one line that says what was done."""


@dataclass
class RunContext(Generic[P_co]):
    """A claimed run, what it was asked, its target's address, and the means to log, connect and
    be stopped."""

    run: Run
    parameters: P_co
    dsn: Dsn
    recorder: Recorder
    notes: dict[str, Any] = field(default_factory=dict)
    failure: str = ""

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._fenced = False
        self._connections: list[psycopg.Connection] = []
        self._guard = threading.Lock()

    @property
    def environment(self) -> Environment:
        return self.run.environment

    def session_name(self, part: str = "") -> str:
        """The application_name of our sessions: `opsconsole:<run>:<part>`."""
        return f"{server.APPLICATION_PREFIX}{self.run.pk}:{part or 'run'}"

    def log(self, text: str, tone: str = "") -> None:
        self.recorder.log(text, tone)

    def progress(self, percent: float, eta_seconds: float | None = None, detail: str = "") -> None:
        self.recorder.progress(percent, eta_seconds, detail)

    def connect(
        self,
        part: str = "",
        *,
        database: str | None = None,
        autocommit: bool = True,
        on: Dsn | None = None,
    ) -> psycopg.Connection:
        """Open a session in the target (or another database of its server) that stop() ends.

        `on` is another server's address.
        """
        self.check()
        connection = server.connect(
            on or self.dsn,
            application_name=self.session_name(part),
            database=database,
            autocommit=autocommit,
        )
        with self._guard:
            self._connections = [c for c in self._connections if not c.closed]
            self._connections.append(connection)
        return connection

    def check_fence(self) -> None:
        """Raise FencedOut when this worker must write nothing more."""
        if self._fenced or self.recorder.fenced:
            raise FencedOut(self.notes.get("fence", "this worker no longer holds the run"))

    def check(self) -> None:
        """Raise FencedOut or Cancelled when this run must not go on."""
        self.check_fence()
        if self._stop.is_set():
            raise Cancelled("")

    @property
    def is_stopping(self) -> bool:
        return self._stop.is_set()

    def sleep(self, seconds: float) -> None:
        """Wait, unless told to stop."""
        self._stop.wait(seconds)
        self.check()

    def stop(self, *, fenced: bool = False) -> None:
        """Tell the run to stop: statements under way are cancelled, tools see `is_stopping`."""
        self._fenced = self._fenced or fenced
        self._stop.set()
        with self._guard:
            open_ones = [c for c in self._connections if not c.closed]
        for connection in open_ones:
            with suppress(psycopg.Error):
                connection.cancel_safe(timeout=5)

    def resume_for_rollback(self) -> None:
        """Forget a stop, so that what has to be put in order can be."""
        if not self._fenced:
            self._stop.clear()

    def close_sessions(self) -> None:
        """Close all our sessions: a swap needs the target empty."""
        with self._guard:
            for connection in self._connections:
                connection.close()
            self._connections.clear()


class Estimate:
    """Progress in per cent and seconds left, from amounts done of a known total.

    `describe()` says what is being done, at most twice a second.
    """

    def __init__(
        self, context: RunContext, total: float, describe: Callable[[], str] = str
    ) -> None:
        self._context = context
        self._describe = describe
        self._total = max(total, 1)
        self._began = self._told = time.monotonic()

    def update(self, done: float) -> None:
        now = time.monotonic()
        if now - self._told < 0.5:
            return
        self._told = now
        share = min(done / self._total, 0.99)
        elapsed = now - self._began
        left = elapsed * (1 - share) / share if share > 0.02 else None
        self._context.progress(share * 100, left, self._describe())
