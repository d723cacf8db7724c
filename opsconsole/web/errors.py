"""Pages for what went wrong: no traceback, and what to do next."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _

from opsconsole.exceptions import Kind, Refused

STATUSES = {
    Kind.FORBIDDEN: 403,
    Kind.NOT_FOUND: 404,
    Kind.CONFLICT: 409,
    Kind.INVALID: 422,
    Kind.UNAVAILABLE: 503,
    Kind.NO_ROOM: 507,
}


def status_of(refusal: Refused) -> int:
    """The HTTP status that a page answers a refusal with."""
    return STATUSES[refusal.kind]


def refused(request: HttpRequest, refusal: Refused) -> HttpResponse:
    """The page that says why, and what to do."""
    context = {"message": str(refusal)}
    return render(request, "refused.html", context, status=status_of(refusal))


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    message = _("There is nothing here, or it is not yours to see.")
    return render(request, "refused.html", {"message": message}, status=404)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    message = _("The browser sent something that cannot be read.")
    return render(request, "refused.html", {"message": message}, status=400)


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    return render(request, "refused.html", {"message": _("This is not allowed.")}, status=403)


def stale_form(request: HttpRequest, reason: str = "") -> HttpResponse:
    message = _("This form is too old or came from elsewhere. Open the page again and repeat.")
    return render(request, "refused.html", {"message": message}, status=403)


def broken(request: HttpRequest) -> HttpResponse:
    return render(request, "broken.html", status=500)
