"""Which role may do what. The only file that names roles in code."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib.auth.models import AnonymousUser
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from opsconsole.choices import Role
from opsconsole.exceptions import Refused
from opsconsole.models import AuditEvent, Environment, User, WorkItem
from opsconsole.models.application import EnvironmentQuerySet
from opsconsole.models.audit import AuditQuerySet
from opsconsole.models.work import WorkItemQuerySet

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


def roles_of(user: User | AnonymousUser, environment: Environment | None = None) -> set[Role]:
    """Return the user's roles in the environment; without one, all roles held anywhere."""
    if not isinstance(user, User) or not user.is_active:
        return set()
    memberships = user.memberships.all()
    if environment is not None:
        memberships = memberships.filter(
            Q(application=None, environment=None)
            | Q(application=environment.application_id)
            | Q(environment=environment)
        )
    return {Role(role) for role in memberships.values_list("role", flat=True)}


def can(user: User | AnonymousUser, action: str, environment: Environment | None = None) -> bool:
    """Whether the user may do the action there; raises KeyError for an unknown action."""
    return bool(ACTIONS[action] & roles_of(user, environment))


def authorize(user: User, action: str, environment: Environment | None = None) -> None:
    """Raise Refused (403) unless the user may do the action there."""
    if not can(user, action, environment):
        needed = ", ".join(sorted(role.label.lower() for role in ACTIONS[action]))
        raise Refused(
            _("%(user)s may not do this here: it takes the role %(roles)s.")
            % {"user": user, "roles": needed},
            status=403,
        )


def visible_environments(user: User) -> EnvironmentQuerySet:
    """Environments in which the user holds any role."""
    memberships = user.memberships.all()
    if memberships.filter(application=None, environment=None).exists():
        return Environment.objects.shown()
    return Environment.objects.shown().filter(
        Q(application__in=memberships.values("application"))
        | Q(pk__in=memberships.values("environment"))
    )


def visible_events(user: User) -> AuditQuerySet:
    """The whole trail for whoever has a role everywhere, else what belongs to their environments."""
    events = AuditEvent.objects.all()
    if user.memberships.filter(application=None, environment=None).exists():
        return events
    return (
        events.filter(environment__in=visible_environments(user))
        if roles_of(user)
        else events.none()
    )


def work_of(user: User, action: str) -> WorkItemQuerySet:
    """Items of the environments where the user may do the action; all, for an admin of everything.

    All means also those of the console itself, and of environments that are archived.
    """
    items = WorkItem.objects.all()
    memberships = user.memberships.filter(role__in=ACTIONS[action])
    everywhere = memberships.filter(application=None, environment=None)
    if everywhere.filter(role=Role.ADMIN).exists():
        return items
    if everywhere.exists():
        return items.filter(environment__in=Environment.objects.shown())
    return items.filter(
        Q(environment__application__in=memberships.values("application"))
        | Q(environment__in=memberships.values("environment")),
        environment__in=Environment.objects.shown(),
    )


def require(action: str) -> Callable:
    """Decorate a view: the user needs the action somewhere; services check the exact place."""

    def decorate(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
        @wraps(view)
        def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            authorize(request.user, action)  # type: ignore[arg-type]
            return view(request, *args, **kwargs)

        return checked

    return decorate
