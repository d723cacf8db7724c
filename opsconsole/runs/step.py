"""The contract of a step, and what it is given.

A step has a `name` and a `run(context)` that returns one line for people. It raises
StepFailed for an expected failure, NeedsAttention when it cannot know the outcome, and
Cancelled at a point of its own choice after `context.check()` told it to. It never calls
another step; what later steps need it puts down under a `Note`, and what is to be kept with the
run it writes into `context.result`.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import ClassVar, Generic, cast

import psycopg
from typing_extensions import TypeVar

from opsconsole.environments.models import Environment, Target
from opsconsole.exceptions import Cancelled, FencedOut
from opsconsole.runs.documents import Parameters, Result
from opsconsole.runs.models import Run
from opsconsole.runs.recorder import Recorder
from opsconsole.sentences import Text
from opsconsole.targets import server
from opsconsole.targets.dsn import Dsn

# A step that is content with less fits into every operation that has more.
P_co = TypeVar("P_co", bound=Parameters, default=Parameters, covariant=True)
P_contra = TypeVar("P_contra", bound=Parameters, default=Parameters, contravariant=True)
R_co = TypeVar("R_co", bound=Result, default=Result, covariant=True)
R_contra = TypeVar("R_contra", bound=Result, default=Result, contravariant=True)
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Note(Generic[T]):
    """The key under which one step puts down a value for later ones; its name is for people."""

    name: str


@dataclass(frozen=True)
class Promise:
    """What a person is told before a run: `what` will happen, in a word or two, and `how`."""

    what: str
    how: str = ""


class Step(ABC, Generic[P_contra, R_contra]):
    """One part of an operation, for every operation whose parameters are (also) `P_contra` and
    whose result is (also) `R_contra`: what it reads of the one and writes into the other."""

    name: ClassVar[str]

    @abstractmethod
    def promise(self, target: Target, parameters: P_contra) -> Promise:
        """What it will do there, in the reader's language, from what is stored."""

    @abstractmethod
    def run(self, context: RunContext[P_contra, R_contra]) -> Text:
        """Do it; returns one line that says what was done."""


@dataclass
class RunContext(Generic[P_co, R_co]):
    """A claimed run, what it was asked and what came of it, its target's address, and the means
    to log, connect and be stopped."""

    run: Run
    parameters: P_co
    result: R_co
    dsn: Dsn
    recorder: Recorder
    failure: Text = ""
    _notes: dict[object, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._fenced = False
        self._why_fenced = "this worker no longer holds the run"
        self._connections: list[psycopg.Connection] = []
        self._reached: list[Dsn] = []
        self._guard = threading.Lock()

    @property
    def target(self) -> Target:
        return self.run.target

    @property
    def environment(self) -> Environment:
        return self.run.environment

    def put(self, note: Note[T], value: T) -> None:
        """Put a value down for later steps."""
        self._notes[note] = value

    def find(self, note: Note[T]) -> T | None:
        """What an earlier step put down; None when none did."""
        # Only `put` writes, and under a note of the value's type.
        return cast("T | None", self._notes.get(note))

    def get(self, note: Note[T]) -> T:
        """What an earlier step put down; LookupError when none did, which is a mistake of ours."""
        if note not in self._notes:
            raise LookupError(f"no step before this one has put down the {note.name}")
        return cast("T", self._notes[note])

    def session_name(self, part: str = "") -> str:
        """The application_name of our sessions: `opsconsole:<run>:<part>`."""
        return f"{server.APPLICATION_PREFIX}{self.run.pk}:{part or 'run'}"

    def log(self, text: str, tone: str = "") -> None:
        self.recorder.log(text, tone)

    def progress(self, percent: float, eta_seconds: float | None = None, detail: Text = "") -> None:
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
        place = on or self.dsn
        connection = server.connect(
            place,
            application_name=self.session_name(part),
            database=database,
            autocommit=autocommit,
        )
        with self._guard:
            self._connections = [c for c in self._connections if not c.closed]
            self._connections.append(connection)
            if place not in self._reached:
                self._reached.append(place)
        return connection

    def has_reached(self, place: Dsn) -> bool:
        """Whether this run had a session there, so that it may have left something behind."""
        return place in self._reached

    def check_fence(self) -> None:
        """Raise FencedOut when this worker must write nothing more."""
        if self._fenced or self.recorder.fenced:
            raise FencedOut(self._why_fenced)

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

    def fence(self, why: str) -> None:
        """Tell the run to stop and to write nothing more: this worker has lost it."""
        self._why_fenced = why
        self._fenced = True
        self.stop()

    def stop(self) -> None:
        """Tell the run to stop: statements under way are cancelled, tools see `is_stopping`."""
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
