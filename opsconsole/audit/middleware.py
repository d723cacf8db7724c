"""Sees what is refused, by whatever refused it, and has it recorded."""

from __future__ import annotations

import logging
from collections.abc import Callable

from django.conf import settings
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import resolve_url

from opsconsole.access.models import User
from opsconsole.audit.choices import Stranger
from opsconsole.audit.refusals import count_stranger, record_refusal
from opsconsole.exceptions import Refused
from opsconsole.web.polling import is_poll

logger = logging.getLogger(__name__)


class RefusalsMiddleware:
    """Records refusals. Has to be within RequestContextMiddleware, which knows who asks from where.

    What was refused changed nothing: when it cannot be recorded, it stays refused, and the log
    says so.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        viewer = request.user
        response = self.get_response(request)
        if not is_poll(request):
            try:
                _look_at(request, response, viewer if isinstance(viewer, User) else None)
            except (Refused, DatabaseError) as error:
                logger.error("a refusal is not in the audit trail: %s", error)
        return response


def _look_at(request: HttpRequest, response: HttpResponse, viewer: User | None) -> None:
    if viewer is None:
        kind = _kind_of(request, response)
        if kind:
            count_stranger(request.META.get("REMOTE_ADDR", ""), kind)
    elif _is_refusal(request, response):
        record_refusal(
            actor=viewer,
            method=str(request.method),
            path=request.path,
            status=response.status_code,
        )


def _is_refusal(request: HttpRequest, response: HttpResponse) -> bool:
    """Forbidden, or not found by a view: what a person may not see is answered as not there."""
    return response.status_code == 403 or (
        response.status_code == 404 and request.resolver_match is not None
    )


def _kind_of(request: HttpRequest, response: HttpResponse) -> Stranger | None:
    """What a stranger was refused for; None for what is open, and for the way to the front door."""
    match response.status_code:
        case 401:
            return Stranger.SIGNED_OUT
        case 403:
            return Stranger.FORGED
        case 404:
            return Stranger.NOTHING_THERE
        case 429:
            return Stranger.GUESSING
        case 302 if _is_sent_to_sign_in(request, response):
            return Stranger.SIGNED_OUT
    return None


def _is_sent_to_sign_in(request: HttpRequest, response: HttpResponse) -> bool:
    is_front_door = request.path == resolve_url(settings.LOGIN_REDIRECT_URL)
    sign_in = resolve_url(settings.LOGIN_URL)
    return response.headers["Location"].startswith(sign_in) and not is_front_door
