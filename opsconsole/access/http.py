"""The request that a view gets once somebody is signed in."""

from __future__ import annotations

from django.http import HttpRequest
from django_htmx.middleware import HtmxDetails

from opsconsole.access.models import User


class ConsoleRequest(HttpRequest):
    """Only a type, never made: a request as SignInMiddleware and htmx's leave it."""

    user: User
    htmx: HtmxDetails
