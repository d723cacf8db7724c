"""What runs now, what ran last, and what comes next."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from django.db.models import Func, IntegerField
from django.db.models.fields.json import KeyTransform
from django.utils import timezone

from opsconsole.environments.models import Target
from opsconsole.overview.panels import COMING, Coming
from opsconsole.runs.choices import RunStatus, StepStatus
from opsconsole.runs.models import Run, RunQuerySet, Step

MOST_MOVING = 10
MOST_ENDED = 8
AHEAD = timedelta(days=7)
MOVING = [RunStatus.AWAITING_APPROVAL, *RunStatus.active()]


@dataclass(frozen=True)
class Moving:
    """A run that has not ended, and the step that it is at."""

    run: Run
    step: Step | None


def going_on(targets: list[Target]) -> list[Run]:
    """The runs that have not ended, those that wait for a person among them, the newest first."""
    found = Run.objects.filter(
        target__in=targets, status__in=[RunStatus.NEEDS_ATTENTION, *MOVING]
    ).order_by("-id")
    return placed(found, targets)


def moving_runs(runs: list[Run]) -> list[Moving]:
    """The newest of these that wait for no person, each with the step that it is at."""
    shown = [run for run in runs if run.state in MOVING][:MOST_MOVING]
    steps = Step.objects.filter(run__in=shown, status=StepStatus.RUNNING)
    at_work = {step.run_id: step for step in steps} if shown else {}
    return [Moving(run, at_work.get(run.pk)) for run in shown]


def ended_runs(targets: list[Target]) -> list[Run]:
    """The newest runs that ended or wait for a person; `applied_count` as they said it."""
    count = Func(
        KeyTransform("applied", "result"),
        function="jsonb_array_length",
        output_field=IntegerField(),
    )
    ended = Run.objects.filter(target__in=targets).exclude(status__in=MOVING)
    return placed(ended.annotate(applied_count=count).order_by("-id")[:MOST_ENDED], targets)


def placed(runs: RunQuerySet, targets: list[Target]) -> list[Run]:
    """These runs with the environments that are read already; without what came of them."""
    environments = {target.pk: target.environment for target in targets}
    found = list(runs.select_related(None).defer("result"))
    for run in found:
        run.environment = environments[run.target_id]
    return found


def coming_in(targets: list[Target]) -> list[Coming]:
    """What the console will do by itself in the next days, the soonest first."""
    until = timezone.now() + AHEAD
    found = [coming for source in COMING for coming in source(targets, until)]
    return sorted(found, key=lambda coming: coming.at)
