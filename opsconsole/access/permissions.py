"""Which role may do what. The only file that names roles in code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

from django.contrib.auth.models import AnonymousUser
from django.db.models import Q, QuerySet
from django.http import HttpResponse
from django.utils.translation import gettext as _

from opsconsole.access.choices import Role
from opsconsole.access.http import ConsoleRequest
from opsconsole.access.models import Membership, User
from opsconsole.access.places import CONSOLE, Place
from opsconsole.access.sudo import require_sudo
from opsconsole.exceptions import Kind, Refused

EVERYBODY = frozenset(Role)
ACTIONS: dict[str, frozenset[Role]] = {
    "console.view": EVERYBODY,
    "audit.view": EVERYBODY,
    "run.start": frozenset({Role.OPERATOR, Role.ADMIN}),
    "run.cancel": frozenset({Role.OPERATOR, Role.ADMIN}),
    "run.decide": frozenset({Role.OPERATOR, Role.ADMIN}),
    "restore.start": frozenset({Role.OPERATOR, Role.ADMIN}),
    "backup.hold": frozenset({Role.OPERATOR, Role.REVIEWER, Role.ADMIN}),
    "backup.download": frozenset({Role.ADMIN}),
    # Asked of the environment that the data comes from, whatever it asks of where it goes.
    "data.take_out": frozenset({Role.ADMIN}),
    "backup.prune": frozenset({Role.ADMIN}),
    "backup.import": frozenset({Role.ADMIN}),
    "restore.cross": frozenset({Role.ADMIN}),
    "replaced.drop": frozenset({Role.ADMIN}),
    "migration.resolve": frozenset({Role.OPERATOR, Role.ADMIN}),
    "drift.acknowledge": frozenset({Role.OPERATOR, Role.REVIEWER, Role.ADMIN}),
    "finding.waive": frozenset({Role.REVIEWER, Role.ADMIN}),
    "work.retry": frozenset({Role.OPERATOR, Role.ADMIN}),
    "health.check": frozenset({Role.OPERATOR, Role.REVIEWER, Role.ADMIN}),
    "settings.edit": frozenset({Role.ADMIN}),
}
# Whoever does one of these confirms who they are first: see sudo.py.
IN_SUDO_MODE = frozenset({"settings.edit", "restore.start", "replaced.drop", "backup.prune"})


@dataclass(frozen=True)
class Reach:
    """Where a user may do something: on the whole console, or below these ids only."""

    is_everywhere: bool = False
    applications: frozenset[int] = frozenset()
    environments: frozenset[int] = frozenset()

    @property
    def is_empty(self) -> bool:
        return not (self.is_everywhere or self.applications or self.environments)

    def covers(self, place: Place) -> bool:
        """Whether the place is one of these or lies in one. What is not saved yet is not."""
        spot = place.spot
        return (
            self.is_everywhere
            or spot.application_id in self.applications
            or spot.environment_id in self.environments
        )

    def on_applications(self, application: str) -> Q:
        """As a condition on the path to an application's id: on all of it, not just in a part."""
        return Q() if self.is_everywhere else Q(**{f"{application}__in": self.applications})

    def among(self, environment: str, *applications: str) -> Q:
        """As a condition on the paths that lead to an environment's and to an application's id."""
        if self.is_everywhere:
            return Q()
        found = Q(**{f"{environment}__in": self.environments})
        for application in applications:
            found |= Q(**{f"{application}__in": self.applications})
        return found


def reach_of(user: User | AnonymousUser, action: str) -> Reach:
    """Where the user may do the action; raises KeyError for an unknown one.

    One query, and none where the user's memberships were fetched with the user.
    """
    roles = ACTIONS[action]
    if not isinstance(user, User) or not user.is_active:
        return Reach()
    held = [m for m in user.memberships.all() if m.role in roles]
    return Reach(
        is_everywhere=any(m.application_id is m.environment_id is None for m in held),
        applications=frozenset(m.application_id for m in held if m.application_id is not None),
        environments=frozenset(m.environment_id for m in held if m.environment_id is not None),
    )


def can(user: User | AnonymousUser, action: str, place: Place) -> bool:
    """Whether the user may do the action at exactly that place."""
    return reach_of(user, action).covers(place)


def can_somewhere(user: User | AnonymousUser, action: str) -> bool:
    """Whether there is a place where the user may do it: enough to show a way there, no more."""
    return not reach_of(user, action).is_empty


def authorize(user: User, action: str, place: Place) -> None:
    """Raise Refused (forbidden) unless the user may do the action at exactly that place."""
    if not can(user, action, place):
        raise _lacks(action)


def _lacks(action: str) -> Refused:
    needed = _(" or ").join(sorted(role.label.lower() for role in ACTIONS[action]))
    return Refused(
        _("You need the role %(roles)s to do this here.") % {"roles": needed},
        kind=Kind.FORBIDDEN,
    )


def memberships_for(user: User, action: str) -> QuerySet[Membership]:
    """The roles held at the places where the user may do the action."""
    return Membership.objects.filter(
        reach_of(user, action).among("environment", "application", "environment__application")
    )


def console_admins() -> QuerySet[User]:
    """Who can let others in: active people who are admin of the whole console."""
    return User.objects.filter(
        is_active=True,
        memberships__role=Role.ADMIN,
        memberships__application=None,
        memberships__environment=None,
    )


def require(action: str, *, changes_nothing: bool = False) -> Callable:
    """Decorate a view: the user needs the action somewhere; the view checks the exact place.

    To post is to do it, which asks for sudo mode where the action does, if it changes anything.
    """
    return _only_if(action, can_somewhere, changes_nothing=changes_nothing)


def require_on_console(action: str) -> Callable:
    """Decorate a view of what belongs to no application: the user needs the action everywhere."""
    return _only_if(action, lambda user, action: can(user, action, CONSOLE))


def _only_if(
    action: str, is_allowed: Callable[[User, str], bool], *, changes_nothing: bool = False
) -> Callable:
    asks = action in IN_SUDO_MODE and not changes_nothing

    def decorate(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
        @wraps(view)
        def checked(request: ConsoleRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            if not is_allowed(request.user, action):
                raise _lacks(action)
            if asks and request.method == "POST":
                require_sudo(request)
            return view(request, *args, **kwargs)

        return checked

    return decorate
