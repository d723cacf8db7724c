"""What happens to the demo."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _

from opsconsole.events.catalogue import Audience, NoData, event

DEMO_CREATED = event(
    "demo.created",
    _("%(actor)s created the demo application %(object)s."),
    data=NoData,
    seen_by=Audience.CONSOLE,
)
