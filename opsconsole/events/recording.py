"""Write the audit trail, and tell who listens. What cannot be recorded is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypedDict, Unpack, overload

from django.contrib.auth.base_user import AbstractBaseUser
from django.db import DatabaseError, connection, models
from django.utils.translation import gettext as _

import opsconsole
from opsconsole.events.catalogue import D, Data, Event, NoData
from opsconsole.events.models import AuditEvent
from opsconsole.exceptions import Kind, Refused
from opsconsole.language import ENGLISH, in_english


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


Actor = AbstractBaseUser | None
Listener = Callable[[Event[Any], AuditEvent], None]

LISTENERS: list[Listener] = []
origin: ContextVar[Origin] = ContextVar("origin", default=Origin())  # noqa: B039


class About(TypedDict, total=False):
    """Where it happened, to what, why, and how it ended; the environment of a run is known."""

    environment: models.Model | None
    run: OfAnEnvironment | None
    about: models.Model | None
    outcome: str
    reason: str


@overload
def record(event: Event[NoData], *, actor: Actor, **about: Unpack[About]) -> AuditEvent: ...
@overload
def record(event: Event[D], *, actor: Actor, data: D, **about: Unpack[About]) -> AuditEvent: ...
def record(
    event: Event[Any], *, actor: Actor, data: Data | None = None, **about: Unpack[About]
) -> AuditEvent:
    """Insert one event, in the transaction of the change it records; then tell the listeners.

    `actor` is None for the console itself. Raises Refused when the row cannot be written, which
    rolls the caller's transaction back, and RuntimeError outside of a transaction.
    """
    if not connection.in_atomic_block:
        raise RuntimeError(f"{event.key} is recorded outside of the transaction of its change")
    row = _row(event, actor, data, **about)
    try:
        row.save(force_insert=True)
    except DatabaseError as error:
        raise Refused(
            _("Nothing was done: the audit trail cannot record it (%(error)s).")
            % {"error": type(error).__name__},
            kind=Kind.UNAVAILABLE,
        ) from error
    for listener in LISTENERS:
        listener(event, row)
    return row


def subscribe(listener: Listener) -> None:
    """Have `listener(event, row)` called for each event, in the order of subscription.

    It is called in the transaction of the act, right after the row is written: an error that it
    raises rolls the act back. What takes the network belongs on the work list.
    """
    LISTENERS.append(listener)


def _row(
    event: Event[Any],
    actor: Actor,
    data: Data | None,
    *,
    environment: models.Model | None = None,
    run: OfAnEnvironment | None = None,
    about: models.Model | None = None,
    outcome: str = AuditEvent.Outcome.OK,
    reason: str = "",
) -> AuditEvent:
    where = origin.get()
    subject = about or run
    with in_english():
        label = str(subject)[:200] if subject else ""
    row = AuditEvent(
        action=event.key,
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
        object_label=label,
        reason=reason,
        details=data.stored() if data else {},
        app_version=opsconsole.__version__,
    )
    row.sentence = row.told_in(ENGLISH)
    return row


PASSWORD_IN_URL = re.compile(r"(://[^/?#:\s]*):[^/?#\s]*@")


def fields_of(thing: models.Model, names: list[str]) -> dict[str, Any]:
    """The named fields as text, for before and after in the audit trail.

    The password of an address (a health check may need one) is left out: the trail is for all.
    """
    return {name: PASSWORD_IN_URL.sub(r"\1:…@", str(getattr(thing, name))) for name in names}
