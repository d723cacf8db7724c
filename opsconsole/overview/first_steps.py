"""What somebody has begun to set up and what a new environment still wants, to come back to."""

from __future__ import annotations

from django.db.models import Exists, OuterRef
from django.urls import reverse
from django.utils.translation import gettext as _

from opsconsole.access.models import User
from opsconsole.access.permissions import can
from opsconsole.environments.models import Application, Draft, Environment, Target
from opsconsole.environments.visibility import applications_for
from opsconsole.overview.panels import FIRST_STEPS, Act, FirstStep
from opsconsole.runs.choices import RunKind, RunStatus
from opsconsole.runs.models import Run

# Runs that an environment may have and still be new.
NEW = 7


def first_steps(user: User, target: Target, newest: list[Run]) -> list[FirstStep]:
    """Empty once nothing is left, or somebody has migrated it: then it is not new any more.

    `newest` are the newest of its runs; one with more of them than a page shows is not new either.
    """
    state = target.latest_state
    migrated = (r.kind == RunKind.MIGRATE and r.state is RunStatus.SUCCEEDED for r in newest)
    if state is None or state.error or any(migrated) or len(newest) > NEW:
        return []
    steps = [step(user, target) for step in [_check_health, *FIRST_STEPS]]
    # The page itself has the button of the last one, the migration.
    return [] if all(step.is_done for step in steps[:-1]) else steps


def begun(user: User) -> list[FirstStep]:
    """What the user is adding, and applications that have no environment yet."""
    drafts = Draft.objects.filter(made_by=user).select_related("application")
    bare = applications_for(user, "settings.edit").filter(
        ~Exists(Environment.objects.filter(application=OuterRef("pk"), archived_at=None)),
        ~Exists(Draft.objects.filter(application=OuterRef("pk"), made_by=user)),
    )
    return [*map(_continued, drafts), *map(_first_environment, bare)]


def _continued(draft: Draft) -> FirstStep:
    if draft.application:
        text = _("You are adding an environment of %(application)s.") % {
            "application": draft.application
        }
    else:
        text = _("You are adding an application from %(source)s.") % {
            "source": draft.given.get("source", "")
        }
    return FirstStep(text, is_done=False, act=Act(_("Continue"), draft.get_absolute_url()))


def _first_environment(application: Application) -> FirstStep:
    return FirstStep(
        _("%(application)s has no environment yet.") % {"application": application},
        is_done=False,
        act=Act(_("Add the first one"), reverse("environment-add", args=[application.pk])),
    )


def _check_health(user: User, target: Target) -> FirstStep:
    environment = target.environment
    act = Act(_("Add a health check"), reverse("health-check-add", args=[environment.pk]))
    return FirstStep(
        _("A health check says whether a migration broke the application."),
        environment.health_checks.filter(is_enabled=True).exists(),
        act if can(user, "settings.edit", environment) else None,
    )
