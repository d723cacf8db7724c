"""What was refused."""

from __future__ import annotations

from django.utils.translation import gettext as _now
from django.utils.translation import gettext_lazy as _
from pydantic import Field

from opsconsole.audit.choices import Stranger
from opsconsole.events.catalogue import Audience, Data, event


class AccessRefused(Data):
    method: str = Field(examples=["POST"])
    path: str = Field(examples=["/backups/7/download"])
    status: int = Field(examples=[403])

    def words(self) -> dict[str, object]:
        is_hidden = self.status == 404
        why = _now("not there, or not theirs to see") if is_hidden else _now("not allowed")
        return super().words() | {"why": why}


class StrangersRefused(Data):
    """`minute` is its begin, in UTC."""

    kind: str = Field(examples=["signed_out"])
    count: int = Field(examples=[12])
    minute: str = Field(examples=["2026-01-01T12:00:00+00:00"])

    def words(self) -> dict[str, object]:
        why = dict(Stranger.choices).get(self.kind, self.kind)
        return super().words() | {"kind": why}


ACCESS_REFUSED = event(
    "access.refused",
    _("%(actor)s was refused %(method)s %(path)s: %(why)s."),
    data=AccessRefused,
    tone="bad",
    seen_by=Audience.CONSOLE,
)
STRANGERS_REFUSED = event(
    "access.strangers_refused",
    _("Requests of nobody signed in, refused in one minute: %(count)s (%(kind)s)."),
    data=StrangersRefused,
    tone="bad",
    seen_by=Audience.CONSOLE,
)
