"""Pages for what went wrong: no traceback, and what to do next."""

from __future__ import annotations

from collections.abc import Iterable

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django_htmx.http import reswap

from opsconsole.exceptions import Kind, Refused

STATUSES = {
    Kind.FORBIDDEN: 403,
    Kind.NOT_FOUND: 404,
    Kind.CONFLICT: 409,
    Kind.INVALID: 422,
    Kind.TOO_MANY: 429,
    Kind.UNAVAILABLE: 503,
    Kind.NO_ROOM: 507,
}


def status_of(refusal: Refused) -> int:
    """The HTTP status that a page answers a refusal with."""
    return STATUSES[refusal.kind]


def refused(request: HttpRequest, refusal: Refused) -> HttpResponse:
    """The page that says why, and what to do."""
    return _told(request, str(refusal), status_of(refusal))


def is_of_a_part(request: HttpRequest) -> bool:
    """Whether htmx asks, to put the answer into a page that is open."""
    return bool(request.headers.get("HX-Request"))


def refused_part(request: HttpRequest, messages: Iterable[str], status: int) -> HttpResponse:
    """Why, in the place where the answer would stand; that stays, for the next try."""
    answer = render(request, "_refused.html", {"messages": list(messages)}, status=status)
    return reswap(answer, "innerHTML")


def _told(request: HttpRequest, message: str, status: int) -> HttpResponse:
    if is_of_a_part(request):
        return refused_part(request, [message], status)
    return render(request, "refused.html", {"message": message}, status=status)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    message = _("There is nothing here, or it is not yours to see.")
    return _told(request, message, 404)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    message = _("The browser sent something that cannot be read.")
    return _told(request, message, 400)


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _told(request, _("This is not allowed."), 403)


def stale_form(request: HttpRequest, reason: str = "") -> HttpResponse:
    message = _("This form is too old or came from elsewhere. Open the page again and repeat.")
    return _told(request, message, 403)


def broken(request: HttpRequest) -> HttpResponse:
    return render(request, "broken.html", status=500)
