"""The settings page: what the viewer may edit of every subject and feature."""

from __future__ import annotations

from typing import Any

from allauth.mfa.models import Authenticator
from django.db.models import Exists, OuterRef, Prefetch, QuerySet
from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from opsconsole.access.http import ConsoleRequest
from opsconsole.access.models import User
from opsconsole.access.permissions import (
    can,
    memberships_for,
    require,
)
from opsconsole.access.places import CONSOLE
from opsconsole.environments.models import Application
from opsconsole.environments.visibility import (
    applications_for,
    environments_for,
)
from opsconsole.overview.panels import SETTINGS_PANELS
from opsconsole.runs.workers import Worker


@require_GET
@require("settings.edit")
def settings_page(request: ConsoleRequest) -> HttpResponse:
    """What the viewer may edit, and nothing else."""
    user: Any = request.user
    places = environments_for(user, "settings.edit").prefetch_related("health_checks", "targets")
    memberships = memberships_for(user, "settings.edit").select_related(
        "application", "environment__application"
    )
    applications = applications_for(user, "settings.edit") | Application.objects.filter(
        pk__in=places.order_by().values("application")
    )
    context = {
        "applications": applications.prefetch_related(Prefetch("environments", places)),
        "people": people_for(user).prefetch_related(Prefetch("memberships", memberships)),
        "panels": [panel(request) for panel in SETTINGS_PANELS],
        "workers": Worker.objects.order_by("-last_seen_at")[:20],
    }
    return render(request, "opsconsole/settings_page.html", context)


def people_for(user: User) -> QuerySet[User]:
    """Everybody for an admin of the console; for others those with a role where they are admin."""
    factors = Authenticator.objects.filter(user=OuterRef("pk"))
    people = User.objects.annotate(has_factors=Exists(factors)).order_by("username")
    if can(user, "settings.edit", CONSOLE):
        return people
    return people.filter(pk__in=memberships_for(user, "settings.edit").values("user"))
