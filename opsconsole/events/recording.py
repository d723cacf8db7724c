"""Write the audit trail. What cannot be recorded is refused."""

from __future__ import annotations

import re
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from django.db import DatabaseError, models
from django.db.models import Model
from django.utils.translation import gettext as _

import opsconsole
from opsconsole.access.models import User
from opsconsole.environments.models import Environment
from opsconsole.events.models import AuditEvent
from opsconsole.exceptions import Refused
from opsconsole.runs.models import Run


@dataclass(frozen=True)
class Origin:
    """Where an action came from; empty for the console's own processes."""

    ip: str | None = None
    user_agent: str = ""
    request_id: str = ""


origin: ContextVar[Origin] = ContextVar("origin", default=Origin())  # noqa: B039


def record(
    action: str,
    *,
    actor: User | None,
    environment: Environment | None = None,
    run: Run | None = None,
    about: models.Model | None = None,
    outcome: str = AuditEvent.Outcome.OK,
    reason: str = "",
    details: dict[str, Any] | None = None,
) -> AuditEvent:
    """Insert one event; call it in the transaction of the change it records.

    `actor` is None for the console itself. Raises Refused when the row cannot be written,
    which rolls the caller's transaction back.
    """
    where = origin.get()
    subject = about or run
    try:
        return AuditEvent.objects.create(
            action=action,
            outcome=outcome,
            actor=actor,
            actor_label=actor.get_username() if actor else "console",
            actor_kind="user" if actor else "system",
            ip=where.ip,
            user_agent=where.user_agent,
            request_id=where.request_id,
            environment=environment or (run.environment if run else None),
            run=run,
            object_type=str(subject._meta.model_name) if subject else "",
            object_id=str(subject.pk) if subject else "",
            object_label=str(subject)[:200] if subject else "",
            reason=reason,
            details=details or {},
            app_version=opsconsole.__version__,
        )
    except DatabaseError as error:
        raise Refused(
            _("Nothing was done: the audit trail cannot record it (%(error)s).")
            % {"error": type(error).__name__},
            status=503,
        ) from error


PASSWORD_IN_URL = re.compile(r"(://[^/?#:\s]*):[^/?#\s]*@")


def fields_of(thing: Model, names: list[str]) -> dict[str, Any]:
    """The named fields as text, for before and after in the audit trail.

    The password of an address (a health check may need one) is left out: the trail is for all.
    """
    return {name: PASSWORD_IN_URL.sub(r"\1:…@", str(getattr(thing, name))) for name in names}
