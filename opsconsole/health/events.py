"""What happens to health checks."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _

from opsconsole.events.catalogue import Changed, NoData, event

CHECK_ADDED = event(
    "health_check.added",
    _("%(actor)s added the health check %(object)s to %(environment)s."),
    data=Changed,
)
CHECK_CHANGED = event(
    "health_check.changed",
    _("%(actor)s changed the health check %(object)s of %(environment)s."),
    data=Changed,
)
CHECK_REMOVED = event(
    "health_check.removed",
    _("%(actor)s removed the health check %(object)s from %(environment)s."),
    data=NoData,
    tone="warn",
)
CHECK_REQUESTED = event(
    "health.check_requested",
    _("%(actor)s asked for a health check of %(object)s."),
    data=NoData,
    tone="idle",
)
