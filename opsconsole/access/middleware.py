"""What a request has by who sent it: its origin for the audit trail, a time zone, no cache."""

from __future__ import annotations

import uuid
import zoneinfo
from collections.abc import Callable

from django.db.models import prefetch_related_objects
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from opsconsole.events.recording import Origin, origin


class RequestContextMiddleware:
    """Makes the request's origin known to the audit trail, and sets the viewer's time zone.

    What somebody who is signed in gets, or who was until now, no browser and no proxy may store.
    """

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
        viewer = request.user
        if viewer.is_authenticated:
            # Every page asks for many rights: their roles are read once per request.
            prefetch_related_objects([viewer], "memberships")
        zone = getattr(viewer, "time_zone", "UTC")
        try:
            with timezone.override(zoneinfo.ZoneInfo(zone)):
                response = self.get_response(request)
        finally:
            origin.reset(token)
        response.headers.setdefault("Vary", "HX-Request, Cookie")
        if viewer.is_authenticated or request.user.is_authenticated:
            response.headers["Cache-Control"] = "no-store"
        return response
