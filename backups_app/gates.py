"""What has to hold before a backup is restored. Pure: see opsconsole/runs/gates.py."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from opsconsole.runs.gates import Closed, Gate, Open, Verdict
from opsconsole.sentences import say


@dataclass(frozen=True)
class BackupProven(Gate):
    """The backup is still there, and was restored once to prove it."""

    is_deleted: bool
    is_proven: bool
    link: str
    name: ClassVar[object] = gettext_lazy("Proven backup")

    def check(self, now: datetime) -> Verdict:
        if self.is_deleted:
            return Closed(say("This backup has been deleted."), self.link)
        if not self.is_proven:
            return Closed(say("This backup was never proven: prove it first."), self.link)
        return Open()


@dataclass(frozen=True)
class SourceConsents(Gate):
    """Data that goes to another environment is masked, or an admin of its own one takes it out."""

    source: str
    consents: bool
    name: ClassVar[object] = gettext_lazy("Consent of where the data is from")

    def check(self, now: datetime) -> Verdict:
        if self.consents:
            return Open()
        return Closed(only_its_admins(self.source))


def only_its_admins(source: str) -> str:
    """Why data of an environment stays where it is."""
    return _(
        "This holds data of %(source)s. Only an admin of %(source)s may take it out of there."
    ) % {"source": source}
