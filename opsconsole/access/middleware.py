"""Where a request comes from, for the audit trail; and refusals as pages, never as tracebacks."""

from __future__ import annotations

import uuid
import zoneinfo
from collections.abc import Callable

from django.db.models import prefetch_related_objects
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.translation import gettext as _

from opsconsole.events.recording import Origin, origin
from opsconsole.exceptions import Refused


class RequestContextMiddleware:
    """Makes the request's origin known to the audit trail, and sets the viewer's time zone."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        token = origin.set(
            Origin(
                ip=request.META.get("REMOTE_ADDR") or None,
                user_agent=request.headers.get("User-Agent", "")[:300],
                request_id=uuid.uuid4().hex,
            )
        )
        if request.user.is_authenticated:
            # Every page asks for many rights: their roles are read once per request.
            prefetch_related_objects([request.user], "memberships")
        zone = getattr(request.user, "time_zone", "UTC")
        try:
            with timezone.override(zoneinfo.ZoneInfo(zone)):
                response = self.get_response(request)
        finally:
            origin.reset(token)
        response.headers.setdefault("Vary", "HX-Request, Cookie")
        return response


class RefusedMiddleware:
    """Answers Refused with its status and a page that says what to do."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_view(
        self, request: HttpRequest, _view: object, _args: object, _kwargs: object
    ) -> HttpResponse | None:
        """PostgreSQL's text holds no NUL: refuse it here, for every form and address at once."""
        values = [v for data in (request.GET, request.POST) for _, vs in data.lists() for v in vs]
        if any("\x00" in value for value in values):
            message = _("Text with a NUL character cannot be stored.")
            return render(request, "refused.html", {"message": message}, status=400)
        return None

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        if not isinstance(error, Refused):
            return None
        return render(request, "refused.html", {"message": str(error)}, status=error.status)
