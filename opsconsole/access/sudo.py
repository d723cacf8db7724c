"""Sudo mode: what could cost data or let somebody in asks who is there, once in ten minutes.

A session that was stolen, or a screen that was left, is not enough for it. Whoever has signed in
within the last ten minutes has said so already. OWASP ASVS 5.0, 7.5.3.
"""

from __future__ import annotations

import time

from allauth.account.adapter import get_adapter
from allauth.account.internal.flows.reauthentication import (
    STATE_SESSION_KEY,
    did_recently_reauthenticate,
)
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.core.internal.httpkit import serialize_request
from django.conf import settings
from django.http import HttpRequest, HttpResponseRedirect
from django.utils.http import urlencode
from django.utils.translation import gettext as _

from opsconsole.access.session_ends import BEGAN
from opsconsole.exceptions import Kind, Refused

HELD_AT = "held_at"


def require_sudo(request: HttpRequest, *, then: str = "") -> None:
    """Go on if the person has confirmed who they are lately, else have them asked.

    The request is held meanwhile, and goes on once they have confirmed; where its answer would be
    no page, `then` is the path of the page on which they ask again. Raises ImmediateHttpResponse, which
    django-allauth's middleware answers with, and Refused (forbidden) for somebody with nothing to
    confirm with.
    """
    if not (has_just_signed_in(request) or did_recently_reauthenticate(request)):
        raise ImmediateHttpResponse(_ask(request, then))


def forget_what_was_held_too_long(request: HttpRequest) -> None:
    """Somebody may have come to the page that asks for another reason, long after they left it."""
    held_at = request.session.pop(HELD_AT, None)
    if held_at and time.time() - held_at > settings.ACCOUNT_REAUTHENTICATION_TIMEOUT:
        request.session.pop(STATE_SESSION_KEY, None)


def is_held(request: HttpRequest) -> bool:
    """Whether something waits for the person to confirm."""
    return STATE_SESSION_KEY in request.session


def has_just_signed_in(request: HttpRequest) -> bool:
    age = time.time() - float(request.session.get(BEGAN, 0))
    return age < settings.ACCOUNT_REAUTHENTICATION_TIMEOUT


def _ask(request: HttpRequest, then: str) -> HttpResponseRedirect:
    ways = get_adapter().get_reauthentication_methods(request.user)
    if not ways:
        raise Refused(
            _("This asks for your password or a second factor, and you have neither. Add one."),
            kind=Kind.FORBIDDEN,
        )
    if not then:
        request.session[STATE_SESSION_KEY] = {"request": serialize_request(request)}
        request.session[HELD_AT] = time.time()
    # Without what follows the path: what is held knows it.
    return HttpResponseRedirect(f"{ways[0]['url']}?{urlencode({'next': then or request.path})}")
