"""Write the audit trail. What cannot be recorded is refused."""

from __future__ import annotations

import re
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from django.contrib.auth.base_user import AbstractBaseUser
from django.db import DatabaseError, models
from django.utils.translation import gettext as _

import opsconsole
from opsconsole.events.models import AuditEvent
from opsconsole.exceptions import Refused


@dataclass(frozen=True)
class Origin:
    """Where an action came from; empty for the console's own processes."""

    ip: str | None = None
    user_agent: str = ""
    request_id: str = ""


class OfAnEnvironment(Protocol):
    """A run, as far as its event needs to know it: the platform's runs rest on events."""

    pk: Any
    environment_id: int
    _meta: ClassVar[Any]


origin: ContextVar[Origin] = ContextVar("origin", default=Origin())  # noqa: B039


def record(
    action: str,
    *,
    actor: AbstractBaseUser | None,
    environment: models.Model | None = None,
    run: OfAnEnvironment | None = None,
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
            actor_id=actor.pk if actor else None,
            actor_label=actor.get_username() if actor else "console",
            actor_kind="user" if actor else "system",
            ip=where.ip,
            user_agent=where.user_agent,
            request_id=where.request_id,
            environment_id=environment.pk if environment else run.environment_id if run else None,
            run_id=run.pk if run else None,
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


def fields_of(thing: models.Model, names: list[str]) -> dict[str, Any]:
    """The named fields as text, for before and after in the audit trail.

    The password of an address (a health check may need one) is left out: the trail is for all.
    """
    return {name: PASSWORD_IN_URL.sub(r"\1:…@", str(getattr(thing, name))) for name in names}
