"""What an address names of applications, environments and targets.

404 where the user may not see it; Refused (forbidden) where the user may see it but not do there
what the address is for.
"""

from __future__ import annotations

from django.http import Http404
from django.shortcuts import get_object_or_404

from opsconsole.access.http import ConsoleRequest
from opsconsole.access.permissions import authorize
from opsconsole.environments.models import Application, Environment, Target
from opsconsole.environments.visibility import (
    visible_applications,
    visible_environments,
    visible_targets,
)


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


def target_or_404(
    request: ConsoleRequest, application: str, environment: str, action: str
) -> Target:
    """The target of the environment that an address names; the action is asked for there."""
    return _target(request, action, application__slug=application, slug=environment)


def target_by_key_or_404(request: ConsoleRequest, pk: int, action: str) -> Target:
    """The same, by the environment's id."""
    return _target(request, action, pk=pk)


def _target(request: ConsoleRequest, action: str, **environment: str | int) -> Target:
    try:
        found = visible_targets(request.user).of(**environment)
    except Target.DoesNotExist:
        raise Http404 from None
    authorize(request.user, action, found.environment)
    return found
