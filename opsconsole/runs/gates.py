"""What has to hold before a run: judged when it is requested, shown, and claimed. Pure.

A gate is made of stored evidence, and judges that alone: no network, no database, no clock of its
own. What only the target knows is read again by preflight.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar

from django.utils.translation import gettext_lazy

from opsconsole.language import tell
from opsconsole.sentences import Text, say


@dataclass(frozen=True)
class Open:
    """Nothing stands in the way."""


@dataclass(frozen=True)
class Waiting:
    """It cannot be said yet, or not before `until`; time or a fresh reading opens it."""

    why: Text
    until: datetime | None = None


@dataclass(frozen=True)
class Closed:
    """A person has to do something first. `link` is where, `field` which input it is about."""

    why: Text
    link: str = ""
    field: str = ""


Verdict = Open | Waiting | Closed


class Gate(ABC):
    """One condition, with the evidence it is judged by.

    `name` is what people call it. `is_read_again`: preflight reads the evidence again, so that
    the claim does not wait for what is missing or old of it.
    """

    name: ClassVar[object]
    is_read_again: ClassVar[bool] = False

    @abstractmethod
    def check(self, now: datetime) -> Verdict:
        """Judge the evidence as of `now`. The same evidence at the same moment, the same verdict."""


@dataclass(frozen=True)
class Judged:
    """A gate as it was judged."""

    gate: Gate
    verdict: Verdict

    @property
    def is_open(self) -> bool:
        return isinstance(self.verdict, Open)

    @property
    def is_closed(self) -> bool:
        return isinstance(self.verdict, Closed)

    @property
    def why(self) -> Text:
        return "" if isinstance(self.verdict, Open) else self.verdict.why

    @property
    def told(self) -> str:
        """Why, for the reader."""
        return tell(self.why)

    @property
    def link(self) -> str:
        return self.verdict.link if isinstance(self.verdict, Closed) else ""

    @property
    def field(self) -> str:
        return self.verdict.field if isinstance(self.verdict, Closed) else ""


def judge(gates: Iterable[Gate], now: datetime) -> list[Judged]:
    """Every gate with its verdict, in the order given."""
    return [Judged(gate, gate.check(now)) for gate in gates]


def in_the_way(judged: Sequence[Judged], *, at_claim: bool = False) -> Judged | None:
    """What a run has to be refused or kept waiting for: a closed gate before a waiting one, and
    of two alike the first. None when it may go ahead."""
    closed = (one for one in judged if one.is_closed)
    waiting = (
        one for one in judged if not one.is_open and not (at_claim and one.gate.is_read_again)
    )
    return next(closed, None) or next(waiting, None)


@dataclass(frozen=True)
class RequesterMay(Gate):
    """Who asked still has the right."""

    requester: str
    may: bool
    name: ClassVar[object] = gettext_lazy("Right to run it")

    def check(self, now: datetime) -> Verdict:
        if self.may:
            return Open()
        return Closed(say("%(user)s no longer has the right to run this.", user=self.requester))


@dataclass(frozen=True)
class PlanIntact(Gate):
    """The stored plan is the one that was confirmed."""

    hash: str
    found: str
    name: ClassVar[object] = gettext_lazy("Plan as confirmed")

    def check(self, now: datetime) -> Verdict:
        if self.hash == self.found:
            return Open()
        return Closed(say("the stored plan is not the one that was confirmed."))


@dataclass(frozen=True)
class FreshReading(Gate):
    """The target could be read, and not longer than `seconds` ago."""

    read_at: datetime | None
    error: str
    seconds: float
    name: ClassVar[object] = gettext_lazy("Reading of the database")
    is_read_again: ClassVar[bool] = True

    def check(self, now: datetime) -> Verdict:
        if self.read_at is None:
            return Waiting(say("The database has not been read yet."))
        if self.error:
            return Waiting(say("The database cannot be read: %(error)s", error=self.error))
        if now - self.read_at > timedelta(seconds=self.seconds):
            return Waiting(say("The database was read too long ago: open the page again."))
        return Open()
