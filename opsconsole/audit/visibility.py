"""How much of the audit trail a user may see."""

from __future__ import annotations

from opsconsole.access.models import User
from opsconsole.access.permissions import reach_of
from opsconsole.environments.visibility import environments_for
from opsconsole.events.models import AuditEvent, AuditQuerySet


def visible_events(user: User) -> AuditQuerySet:
    """The whole trail for whoever has a role everywhere, else what belongs to their environments."""
    events = AuditEvent.objects.all()
    if reach_of(user, "audit.view").is_everywhere:
        return events
    return events.filter(environment__in=environments_for(user, "audit.view"))
