"""Ask the environment's health checks as part of a run."""

from __future__ import annotations

from django.conf import settings
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from opsconsole.environments.models import Target
from opsconsole.exceptions import NeedsAttention, StepFailed
from opsconsole.formats import duration
from opsconsole.health.models import HealthResult
from opsconsole.health.services import check_target
from opsconsole.runs.documents import Parameters
from opsconsole.runs.step import Note, Promise, RunContext, Step
from opsconsole.sentences import Text, say

# What was failing before the run, one line; "" for nothing.
UNHEALTHY_BEFORE = Note[str]("health before the run")
ROUNDS = 3
TRIES = 3


def check_once(context: RunContext, phase: str) -> list[HealthResult]:
    """Ask every check once and log each answer."""
    results = check_target(context.target, run=context.run, phase=phase)
    for result in results:
        context.log(
            f"health {phase}: {result.check_name}: {result.summary} in {duration(result.latency_ms / 1000)}",
            "ok" if result.is_healthy else "no",
        )
    return results


def failing(results: list[HealthResult]) -> str:
    """What fails, one line; empty when nothing does."""
    return "; ".join(f"{r.check_name}: {r.summary}" for r in results if not r.is_healthy)


def failing_still(context: RunContext, phase: str) -> str:
    """What fails, one line, also when it is asked again; empty when nothing does."""
    for attempt in range(TRIES):
        problem = failing(check_once(context, phase))
        if not problem:
            break
        if attempt + 1 < TRIES:
            context.sleep(settings.TIME_SCALE)
    return problem


class HealthStep(Step):
    """All checks good, several times over the settle time. One bad answer is asked again."""

    name = gettext_noop("health")

    def __init__(self, phase: str) -> None:
        self.phase = phase

    def promise(self, target: Target, parameters: Parameters) -> Promise:
        if not target.environment.health_checks.filter(is_enabled=True).exists():
            return Promise(_("Health"), _("no health check is configured: nothing is checked"))
        return Promise(
            _("Health"),
            _("runs every health check several times over %(time)s")
            % {"time": duration(target.environment.settle_seconds)},
        )

    def run(self, context: RunContext) -> Text:
        if not context.environment.health_checks.filter(is_enabled=True).exists():
            return say("no health check is configured")
        pause = context.environment.settle_seconds * settings.TIME_SCALE / (ROUNDS - 1)
        for number in range(ROUNDS):
            if number:
                context.sleep(pause)
            self._round(context)
            context.progress(100 * (number + 1) / ROUNDS)
        return say(
            "good %(times)s times over %(time)s",
            times=ROUNDS,
            time=duration(context.environment.settle_seconds),
        )

    def _round(self, context: RunContext) -> None:
        problem = failing_still(context, self.phase)
        if not problem:
            return
        before = context.find(UNHEALTHY_BEFORE)
        if before:
            raise NeedsAttention(
                say(
                    "Health is failing (%(problem)s), as it was before this run (%(before)s): the console "
                    "cannot tell whether this run made it worse.",
                    problem=problem,
                    before=before,
                )
            )
        raise StepFailed(problem)
