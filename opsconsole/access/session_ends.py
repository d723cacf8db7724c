"""When a session ends by itself, and what a page that is still open is answered then."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.middleware import LoginRequiredMiddleware
from django.contrib.auth.models import AnonymousUser
from django.contrib.auth.signals import user_logged_in
from django.contrib.sessions.backends.base import SessionBase
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django_htmx.http import HttpResponseClientRedirect

from opsconsole.access.sessions import note_session
from opsconsole.formats import duration
from opsconsole.web.polling import is_poll

BEGAN, USED = "began", "used"
# The key under which the session is listed: it gets another one now and then.
LISTED_AS = "listed_as"
# How much older than it is the last use may be told: a page needs no write for each request.
WRITE_EVERY_SECONDS = 60


class SessionEndsMiddleware:
    """Ends a session that is too old, or that nobody used for too long; the person signs in again.

    What a page asks for by itself is no use of it. OWASP ASVS 5.0, 7.3.1 and 7.3.2.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.user.is_authenticated and (why := _why_over(request.session)):
            request.session.flush()
            request.user = AnonymousUser()
            messages.warning(request, why)
        response = self.get_response(request)
        if request.user.is_authenticated and not is_poll(request):
            _note_use(request)
        return response


class SignInMiddleware(LoginRequiredMiddleware):
    """Asks whoever is not signed in to sign in: for a part of a page that is open, in place of all
    of the page, and back to it afterwards."""

    def handle_no_permission(self, request: HttpRequest, view_func: Callable) -> Any:
        if not request.headers.get("HX-Request"):
            return super().handle_no_permission(request, view_func)
        page = request.htmx.current_url_abs_path or "/"  # type: ignore[attr-defined]
        answer = HttpResponseClientRedirect(f"{reverse('sign-in')}?{urlencode({'next': page})}")
        answer.status_code = 401
        return answer


def _why_over(session: SessionBase) -> str:
    """What its person is told, "" while it goes on. One of before this was kept begins now."""
    now = time.time()
    if now - session.setdefault(BEGAN, now) > settings.SESSION_COOKIE_AGE:
        return _("Your session ended %(duration)s after you signed in. Sign in again to go on.") % {
            "duration": duration(settings.SESSION_COOKIE_AGE)
        }
    if now - session.setdefault(USED, now) > settings.SESSION_IDLE_SECONDS:
        return _(
            "Your session ended: it was not used for %(duration)s. Sign in again to go on."
        ) % {"duration": duration(settings.SESSION_IDLE_SECONDS)}
    return ""


def _note_use(request: HttpRequest) -> None:
    session, now = request.session, time.time()
    is_listed = session.get(LISTED_AS) == session.session_key
    if not is_listed or now - session[USED] > WRITE_EVERY_SECONDS:
        session[USED], session[LISTED_AS] = now, session.session_key
        note_session(request, began=session[BEGAN])


@receiver(user_logged_in)
def _begin(request: HttpRequest, **_kwargs: Any) -> None:
    request.session[BEGAN] = request.session[USED] = time.time()
