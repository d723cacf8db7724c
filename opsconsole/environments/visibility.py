"""Which applications and environments a user may see, or do something in."""

from __future__ import annotations

from django.db.models import QuerySet

from opsconsole.access.models import User
from opsconsole.access.permissions import reach_of
from opsconsole.environments.models import (
    Application,
    Environment,
    EnvironmentQuerySet,
    Target,
    TargetQuerySet,
)


def environments_for(user: User, action: str) -> EnvironmentQuerySet:
    """The shown environments in which the user may do the action."""
    return Environment.objects.shown().filter(reach_of(user, action).among("pk", "application"))


def targets_for(user: User, action: str) -> TargetQuerySet:
    """The targets of the shown environments in which the user may do the action."""
    reach = reach_of(user, action)
    return Target.objects.shown().filter(reach.among("environment", "environment__application"))


def applications_for(user: User, action: str) -> QuerySet[Application]:
    """The shown applications on which the user may do the action, not just in a part of them."""
    reach = reach_of(user, action)
    return Application.objects.filter(reach.on_applications("pk"), archived_at=None)


def visible_environments(user: User) -> EnvironmentQuerySet:
    """Environments in which the user holds any role."""
    return environments_for(user, "console.view")


def visible_targets(user: User) -> TargetQuerySet:
    """Targets of the environments in which the user holds any role."""
    return targets_for(user, "console.view")


def visible_applications(user: User) -> QuerySet[Application]:
    """Applications on which, or in an environment of which, the user holds any role."""
    reach = reach_of(user, "console.view")
    return (
        Application.objects.filter(archived_at=None)
        .filter(reach.among("environments", "pk"))
        .distinct()
    )
