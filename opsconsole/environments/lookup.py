"""What an address names of applications and environments.

404 where the user may not see it; Refused (forbidden) where the user may see it but not do there
what the address is for.
"""

from __future__ import annotations

from django.shortcuts import get_object_or_404

from opsconsole.access.http import ConsoleRequest
from opsconsole.access.permissions import authorize
from opsconsole.environments.models import Application, Environment
from opsconsole.environments.visibility import visible_applications, visible_environments


def application_or_404(request: ConsoleRequest, pk: int, action: str) -> Application:
    found = get_object_or_404(visible_applications(request.user), pk=pk)
    authorize(request.user, action, found)
    return found


def environment_or_404(
    request: ConsoleRequest, application: str, environment: str, action: str
) -> Environment:
    return _environment(request, action, application__slug=application, slug=environment)


def environment_by_key_or_404(request: ConsoleRequest, pk: int, action: str) -> Environment:
    return _environment(request, action, pk=pk)


def _environment(request: ConsoleRequest, action: str, **named: str | int) -> Environment:
    found = get_object_or_404(visible_environments(request.user), **named)
    authorize(request.user, action, found)
    return found
