"""What happens to the demo."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _
from pydantic import Field

from opsconsole.events.catalogue import Audience, Data, NoData, event


class DemoReset(Data):
    """The short names of the environments whose databases were made anew."""

    environments: list[str] = Field(examples=[["staging"]])

    def words(self) -> dict[str, object]:
        return {"environments": ", ".join(self.environments)}


DEMO_CREATED = event(
    "demo.created",
    _("%(actor)s created the demo application %(object)s."),
    data=NoData,
    seen_by=Audience.CONSOLE,
)
DEMO_RESET = event(
    "demo.reset",
    _("%(actor)s put the demo application %(object)s back: %(environments)s."),
    data=DemoReset,
    tone="warn",
    seen_by=Audience.CONSOLE,
)
