"""What has to hold before a plan is applied. Pure: see opsconsole/runs/gates.py."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from django.utils.translation import gettext_lazy

from opsconsole.runs.gates import Closed, Gate, Open, Verdict
from opsconsole.sentences import say


@dataclass(frozen=True)
class HistoryHealthy(Gate):
    """No migration is failed, edited or being applied, and the tool would take every file."""

    refusals: tuple[str, ...]
    link: str
    name: ClassVar[object] = gettext_lazy("History of migrations")

    def check(self, now: datetime) -> Verdict:
        return Closed("; ".join(self.refusals), self.link) if self.refusals else Open()


@dataclass(frozen=True)
class FindingsAnswered(Gate):
    """No finding that stops a migration is without a waiver."""

    findings: tuple[str, ...]
    link: str
    name: ClassVar[object] = gettext_lazy("Findings")

    def check(self, now: datetime) -> Verdict:
        return Closed("; ".join(self.findings), self.link) if self.findings else Open()


@dataclass(frozen=True)
class SomethingPending(Gate):
    where: str
    count: int
    name: ClassVar[object] = gettext_lazy("Pending migrations")

    def check(self, now: datetime) -> Verdict:
        if self.count:
            return Open()
        return Closed(say("%(where)s is up to date: nothing is pending.", where=self.where))


@dataclass(frozen=True)
class PlanCurrent(Gate):
    """History, files and database are as they were when the plan was confirmed."""

    changes: tuple[str, ...]
    name: ClassVar[object] = gettext_lazy("Unchanged since it was shown")

    def check(self, now: datetime) -> Verdict:
        if not self.changes:
            return Open()
        return Closed(
            say(
                "Not started, because it changed since it was shown: %(changes)s.",
                changes="; ".join(self.changes),
            )
        )


@dataclass(frozen=True)
class ChecklistAnswered(Gate):
    """Every line of a protected environment's checklist is answered; `missing` are those not."""

    missing: tuple[str, ...]
    name: ClassVar[object] = gettext_lazy("Checklist")

    def check(self, now: datetime) -> Verdict:
        if not self.missing:
            return Open()
        return Closed(
            say("Not confirmed yet: %(items)s.", items="; ".join(self.missing)),
            field="checklist",
        )
