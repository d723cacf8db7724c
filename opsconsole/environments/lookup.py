"""What an address names of applications, environments and targets.

404 where the user may not see it; Refused (forbidden) where the user may see it but not do there
what the address is for.
"""

from __future__ import annotations

from django.http import Http404
from django.shortcuts import get_object_or_404

from opsconsole.access.http import ConsoleRequest
from opsconsole.access.permissions import authorize, can
from opsconsole.access.sudo import require_sudo
from opsconsole.environments.models import Application, Draft, Environment, Target
from opsconsole.environments.visibility import (
    visible_applications,
    visible_environments,
    visible_targets,
)


def application_or_404(request: ConsoleRequest, pk: int, action: str) -> Application:
    found = get_object_or_404(visible_applications(request.user), pk=pk)
    authorize(request.user, action, found)
    return found


def draft_or_404(request: ConsoleRequest, pk: int, *, of_application: bool | None = None) -> Draft:
    """A draft that the user may save: of an application or of an environment, where that is said.

    404 also where the right is missing: nobody else has anything to do with it.
    """
    drafts = Draft.objects.select_related("application").filter(application__archived_at=None)
    if of_application is not None:
        drafts = drafts.filter(application__isnull=of_application)
    found = get_object_or_404(drafts, pk=pk)
    if not can(request.user, "settings.edit", found.place):
        raise Http404
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


def require_sudo_if_protected(request: ConsoleRequest, environment: Environment) -> None:
    """Before a run that changes a protected environment: see access/sudo.py, also for what it raises."""
    if environment.is_protected:
        require_sudo(request)
