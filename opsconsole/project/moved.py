"""Addresses of 0.1 that somebody may have kept, led to where their pages are now."""

from __future__ import annotations

from collections.abc import Callable

from django.http import Http404, HttpResponse
from django.shortcuts import redirect
from django.urls import Resolver404, ResolverMatch, resolve
from django.views.decorators.http import require_POST

from opsconsole.access.http import ConsoleRequest
from opsconsole.access.permissions import require
from opsconsole.environments.visibility import visible_environments

APPLICATIONS = "/applications"
REMOVALS = {
    "application": "application-archive",
    "environment": "environment-archive",
    "health-check": "health-check-delete",
    "role": "role-revoke",
    "person": "person-lock-out",
}


@require_POST
@require("settings.edit", changes_nothing=True)
def removal(_request: ConsoleRequest, thing: str, pk: int) -> HttpResponse:
    """The act of a page that was open during the upgrade, called again where it is now."""
    if thing not in REMOVALS:
        raise Http404
    return redirect(REMOVALS[thing], pk, permanent=True, preserve_request=True)


class MovedMiddleware:
    """Redirects what is not found, and was the address of an application in 0.1.

    Not a last route: the old addresses of an application with the short name `applications` match
    routes of today, and only their views know that nothing is there.
    """

    def __init__(self, get_response: Callable[[ConsoleRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: ConsoleRequest) -> HttpResponse:
        response = self.get_response(request)
        if response.status_code not in {404, 405} or not _is_moved(request):
            return response
        is_read = request.method in {"GET", "HEAD"}
        return redirect(
            APPLICATIONS + request.get_full_path(),
            permanent=not is_read,
            preserve_request=not is_read,
        )


def _is_moved(request: ConsoleRequest) -> bool:
    """Whether there is something below /applications that the reader sees, or may sign in to see."""
    try:
        found = resolve(APPLICATIONS + request.path_info)
    except Resolver404:
        return False
    return not request.user.is_authenticated or _is_visible(request, found)


def _is_visible(request: ConsoleRequest, found: ResolverMatch) -> bool:
    seen = visible_environments(request.user).filter(application__slug=found.kwargs["application"])
    if "environment" in found.kwargs:
        seen = seen.filter(slug=found.kwargs["environment"])
    return seen.exists()
