"""Where people are signed in: noted while they use it, shown to them, and ended by them or an admin."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.contrib.sessions.models import Session
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from opsconsole.access import events
from opsconsole.access.models import OpenSession, User
from opsconsole.events import recording as audit


def note_session(request: HttpRequest, *, began: float) -> None:
    """Write down that the person uses the session of this request now, and from where.

    `began` is when they signed in, in seconds of the Unix epoch.
    """
    now, key = timezone.now(), str(request.session.session_key)
    seen = {
        "user_id": request.user.pk,
        "address": request.META.get("REMOTE_ADDR") or None,
        "user_agent": request.headers.get("User-Agent", "")[:300],
        "used_at": now,
    }
    # It may have been ended meanwhile, from elsewhere.
    if Session.objects.filter(pk=key).exists():
        OpenSession.objects.update_or_create(
            session_id=key,
            defaults=seen,
            create_defaults=seen | {"began_at": datetime.fromtimestamp(began, UTC)},
        )


def open_sessions(user: User) -> QuerySet[OpenSession]:
    """Those of the person that have not ended by themselves, the last used first."""
    now = timezone.now()
    return OpenSession.objects.filter(
        user=user,
        session__expire_date__gt=now,
        used_at__gt=now - timedelta(seconds=settings.SESSION_IDLE_SECONDS),
        began_at__gt=now - timedelta(seconds=settings.SESSION_COOKIE_AGE),
    ).order_by("-used_at", "-pk")


def end_session(*, actor: User, session: OpenSession) -> None:
    """End one, if it is still there: its next request asks to sign in."""
    with transaction.atomic():
        if _end(OpenSession.objects.filter(pk=session.pk)):
            audit.record(
                events.SESSION_ENDED,
                actor=actor,
                about=session.user,
                data=events.SessionOf(session=str(session)),
            )


def end_sessions(*, actor: User, user: User, but: str = "") -> int:
    """End all sessions of the person but the one of that key; returns how many there were."""
    with transaction.atomic():
        ended = end_quietly(user, but=but)
        if ended:
            audit.record(
                events.SESSIONS_ENDED, actor=actor, about=user, data=events.Sessions(count=ended)
            )
    return ended


def end_quietly(user: User, *, but: str = "") -> int:
    """The same within an act that says so itself."""
    return _end(OpenSession.objects.filter(user=user).exclude(session_id=but))


def _end(sessions: QuerySet[OpenSession]) -> int:
    """How many of them were there. What is known of a session goes with it."""
    _rows, by_model = Session.objects.filter(
        pk__in=list(sessions.values_list("session_id", flat=True))
    ).delete()
    return by_model.get("sessions.Session", 0)
