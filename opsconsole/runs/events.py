"""What happens to runs."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from pydantic import ConfigDict, Field, JsonValue

from opsconsole.events.catalogue import Audience, Data, NoData, event
from opsconsole.runs.choices import RunKind, RunStatus


class RunRequested(Data):
    """The parameters of the run lie beside these, each under its own name."""

    model_config = ConfigDict(extra="allow")
    kind: str = Field(examples=["backup"])
    operation: str = ""
    plan: str = ""

    def words(self) -> dict[str, object]:
        return super().words() | {"kind": _label(RunKind, self.kind)}


class OnWorker(Data):
    worker: str = Field(examples=["runs@console-1"])


class _HasStatus(Data):
    status: str = Field(examples=["rolled_back"])

    def words(self) -> dict[str, object]:
        return super().words() | {"status": _label(RunStatus, self.status)}


class DuplicateDelivery(_HasStatus):
    worker: str = Field(examples=["runs@console-1"])


class RunEnded(_HasStatus):
    applied: JsonValue = None


class RunDecided(_HasStatus):
    """`by_run` is the number of the run that brought the database back."""

    by_run: int | None = None


class LogsDeleted(Data):
    """The first and the last run of those whose logs went, and for how long they are kept."""

    first_run: int = Field(examples=[1])
    last_run: int = Field(examples=[522])
    kept_months: int = Field(examples=[12])

    def words(self) -> dict[str, object]:
        kept = ngettext("%(n)d month", "%(n)d months", self.kept_months) % {"n": self.kept_months}
        return super().words() | {"kept": kept}


def _label(choices: type[RunKind] | type[RunStatus], value: str) -> str:
    return str(dict(choices.choices).get(value, value)).lower()


RUN_REQUESTED = event(
    "run.requested", _("%(actor)s requested run %(run)s (%(kind)s)."), data=RunRequested
)
RUN_REFUSED = event(
    "run.refused", _("%(actor)s refused to start run %(run)s."), data=NoData, tone="bad"
)
RUN_STARTED = event("run.started", _("Run %(run)s started on %(worker)s."), data=OnWorker)
DUPLICATE_DELIVERY = event(
    "run.duplicate_delivery",
    _("%(worker)s was sent run %(run)s again and ignored it (%(status)s)."),
    data=DuplicateDelivery,
    tone="warn",
)
RUN_ENDED = event("run.ended", _("Run %(run)s ended: %(status)s."), data=RunEnded)
RUN_LOST = event(
    "run.lost", _("Run %(run)s lost its worker, %(worker)s."), data=OnWorker, tone="bad"
)
RUN_DECIDED = event(
    "run.decided", _("%(actor)s settled run %(run)s: %(status)s."), data=RunDecided, tone="warn"
)
CANCEL_REQUESTED = event(
    "run.cancel_requested", _("%(actor)s asked run %(run)s to stop."), data=NoData, tone="warn"
)
LOGS_DELETED = event(
    "run.logs_deleted",
    _(
        "The logs of runs %(first_run)s to %(last_run)s were deleted: logs are kept for %(kept)s"
        " after the last of these runs has ended."
    ),
    data=LogsDeleted,
    tone="warn",
    seen_by=Audience.CONSOLE,
)
