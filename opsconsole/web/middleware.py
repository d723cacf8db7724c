"""Refusals as pages, never as tracebacks; what of a browser no page may use."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.middleware.gzip import GZipMiddleware
from django.shortcuts import render
from django.utils.translation import gettext as _

from opsconsole.exceptions import Refused
from opsconsole.formats import UNSEEN_IN_UTF8, visible
from opsconsole.web import errors

UNUSED_FEATURES = (
    "accelerometer",
    "autoplay",
    "camera",
    "display-capture",
    "fullscreen",
    "geolocation",
    "gyroscope",
    "hid",
    "magnetometer",
    "microphone",
    "midi",
    "payment",
    "screen-wake-lock",
    "serial",
    "usb",
    "xr-spatial-tracking",
)
PERMISSIONS_POLICY = ", ".join(f"{feature}=()" for feature in UNUSED_FEATURES)


class PermissionsPolicyMiddleware:
    """Turns off every feature of the browser that no page of the console needs."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        response.headers["Permissions-Policy"] = PERMISSIONS_POLICY
        return response


class CompressedPagesMiddleware(GZipMiddleware):
    """Compresses pages, with Django's padding against BREACH (https://www.breachattack.com).

    What is streamed stays as it is: archives are compressed already, and an export is read as it
    comes.
    """

    def process_response(
        self, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        is_page = response.get("Content-Type", "").startswith("text/html")
        if response.streaming or not is_page:
            return response
        return super().process_response(request, response)


class VisibleTextMiddleware:
    """Writes out, in every page, the characters that are not seen and change what is.

    Names, messages and SQL come from files and servers of others, and stand in many templates.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        is_page = response.get("Content-Type", "").startswith("text/html")
        if is_page and not response.streaming and UNSEEN_IN_UTF8.search(response.content):
            response.content = visible(response.content.decode()).encode()
        return response


class RefusedMiddleware:
    """Answers Refused with a page that says what to do."""

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
        return errors.refused(request, error) if isinstance(error, Refused) else None
