"""How much of the audit trail a user may see."""

from __future__ import annotations

from opsconsole.access.models import User
from opsconsole.access.permissions import reach_of
from opsconsole.environments.visibility import environments_for
from opsconsole.events.catalogue import CATALOGUE, Audience
from opsconsole.events.models import AuditEvent, AuditQuerySet


def visible_events(user: User) -> AuditQuerySet:
    """The whole trail for whoever has a role everywhere, else what belongs to their environments.

    Of these, what is only for those with a role everywhere is left out.
    """
    events = AuditEvent.objects.all()
    if reach_of(user, "audit.view").is_everywhere:
        return events
    hidden = [key for key, event in CATALOGUE.items() if event.seen_by is Audience.CONSOLE]
    theirs = events.filter(environment__in=environments_for(user, "audit.view"))
    return theirs.exclude(action__in=hidden)
