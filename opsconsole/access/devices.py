"""The devices on which people have signed in before, by a signed cookie."""

from __future__ import annotations

import secrets

from django.conf import settings
from django.core import signing
from django.http import HttpRequest, HttpResponse

from opsconsole.access.models import User

SALT = "opsconsole.known-device"
SECONDS = 365 * 24 * 3600


def known_device(request: HttpRequest, name: str) -> str:
    """The device that the request comes from, if the person of that name has signed in on it.

    "" if not, and once all their sessions were ended.
    """
    user = User.objects.filter(username=name).first()
    if user is None:
        return ""
    try:
        person, generation, device = signing.loads(
            request.COOKIES.get(_cookie(user), ""), salt=SALT, max_age=SECONDS
        )
    except (signing.BadSignature, TypeError, ValueError):
        return ""
    return str(device) if [person, generation] == [user.pk, user.session_generation] else ""


def remember_device(response: HttpResponse, user: User) -> None:
    """Know the device again for a year, as one of this person, who has not guessed on it yet."""
    response.set_cookie(
        _cookie(user),
        signing.dumps([user.pk, user.session_generation, secrets.token_urlsafe(16)], salt=SALT),
        max_age=SECONDS,
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",
    )


def _cookie(user: User) -> str:
    """Its name: people who share a device are each known on it."""
    return f"{settings.COOKIE_PREFIX}known_device_{user.pk}"
