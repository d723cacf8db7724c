"""The devices on which people have signed in before, by a signed cookie."""

from __future__ import annotations

import secrets

from django.conf import settings
from django.core import signing
from django.http import HttpRequest, HttpResponse

from opsconsole.access.models import User

COOKIE = "known_device"
SALT = "opsconsole.known-device"
DAYS = 365


def known_device(request: HttpRequest, name: str) -> str:
    """The device that the request comes from, if the person of that name has signed in on it.

    "" if not, and once all their sessions were ended.
    """
    user = User.objects.filter(username=name).first()
    try:
        person, generation, device = signing.loads(
            request.COOKIES.get(COOKIE, ""), salt=SALT, max_age=DAYS * 24 * 3600
        )
    except (signing.BadSignature, TypeError, ValueError):
        return ""
    is_theirs = user and [person, generation] == [user.pk, user.session_generation]
    return str(device) if is_theirs else ""


def remember_device(request: HttpRequest, response: HttpResponse, user: User) -> None:
    """Know the device again for a year, as one of this person."""
    device = known_device(request, user.get_username()) or secrets.token_urlsafe(16)
    response.set_cookie(
        COOKIE,
        signing.dumps([user.pk, user.session_generation, device], salt=SALT),
        max_age=DAYS * 24 * 3600,
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",
    )
