"""Add, change and remove the health checks of an environment. All audited."""

from __future__ import annotations

from typing import Any

from django.db import transaction

from opsconsole.access.models import User
from opsconsole.access.permissions import authorize
from opsconsole.events import recording as audit
from opsconsole.events.catalogue import Changed
from opsconsole.events.recording import fields_of
from opsconsole.health import events
from opsconsole.health.models import HealthCheck
from opsconsole.health.services import SAMPLE_HEALTH
from opsconsole.work.sending import send_short


def save_health_check(*, actor: User, check: HealthCheck, before: dict[str, Any]) -> HealthCheck:
    """Save a new or changed check; a worker asks it at once if the broker answers, else in its turn."""
    authorize(actor, "settings.edit", check.environment)
    with transaction.atomic():
        event = events.CHECK_CHANGED if check.pk else events.CHECK_ADDED
        check.save()
        after = fields_of(check, ["name", "kind", "address", "timeout_seconds", "is_enabled"])
        audit.record(
            event,
            actor=actor,
            environment=check.environment,
            about=check,
            data=Changed(before=before, after=after),
        )
    send_short(SAMPLE_HEALTH, check.environment_id)
    return check


def delete_health_check(*, actor: User, check: HealthCheck) -> None:
    """Remove a check; what it answered stays."""
    authorize(actor, "settings.edit", check.environment)
    with transaction.atomic():
        audit.record(events.CHECK_REMOVED, actor=actor, environment=check.environment, about=check)
        check.delete()
