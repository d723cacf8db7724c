"""How a run ended, or what it does now, in a few sentences: what its page says first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median
from typing import Protocol

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from opsconsole.formats import duration
from opsconsole.language import tell
from opsconsole.runs.choices import RunStatus, StepStatus
from opsconsole.runs.models import Run, Step
from opsconsole.runs.panels import NextAct
from opsconsole.sentences import Sentence

# Of how many runs "usually" speaks, and from how many on it says anything.
USUAL_OF, USUAL_FROM = 10, 3


class Answer(Protocol):
    """What one health check answered within a run."""

    observed_at: datetime
    is_healthy: bool


@dataclass(frozen=True)
class Outcome:
    """What the page of a run says first.

    `cause` and `state` are the summary in two parts, where it was made of two; otherwise all of it
    is in `told`. `measured` holds only what was measured. The first of `acts` is the one to take.
    """

    title: str
    cause: str = ""
    state: str = ""
    told: str = ""
    is_english: bool = False
    measured: list[str] = field(default_factory=list)
    acts: list[NextAct] = field(default_factory=list)


def moving_outcome(run: Run, steps: Sequence[Step]) -> Outcome:
    """Of a run that is not over: what it does now."""
    told = run.told if run.state is RunStatus.LOST else ""
    return Outcome(_now(run, steps), told=told, is_english=not run.summary_parts)


def ended_outcome(
    run: Run, steps: Sequence[Step], health: Sequence[Answer], acts: Sequence[NextAct]
) -> Outcome:
    """Of a run that is over, or waits for a decision."""
    cause, state = _in_two(run)
    return Outcome(
        _end(run, steps),
        cause=cause,
        state=state,
        told="" if cause else run.told,
        is_english=not run.summary_parts,
        measured=[*_of_database(run), *_of_checks(health)],
        acts=sorted(acts, key=lambda act: not act.is_first),
    )


def usual_seconds(run: Run) -> float | None:
    """How long the same usually takes there: the median of its last runs that succeeded.

    None when there are too few of them to tell. One query.
    """
    ended = Run.objects.filter(
        target=run.target_id,
        operation=run.operation,
        status=RunStatus.SUCCEEDED,
        started_at__isnull=False,
        finished_at__isnull=False,
    ).exclude(pk=run.pk)
    took = [
        (finished - started).total_seconds()
        for started, finished in ended.values_list("started_at", "finished_at")[:USUAL_OF]
        if started and finished
    ]
    return median(took) if len(took) >= USUAL_FROM else None


def _now(run: Run, steps: Sequence[Step]) -> str:
    if run.state is RunStatus.QUEUED:
        return _("%(title)s: waiting for a worker") % {"title": run.title}
    if run.state is RunStatus.CANCELLING:
        return _("%(title)s: stopping, as somebody asked") % {"title": run.title}
    if run.state is RunStatus.LOST:
        return _("%(title)s: the worker no longer reports") % {"title": run.title}
    step = next((step for step in steps if step.status == StepStatus.RUNNING), None)
    if step is None:
        return _("%(title)s: running") % {"title": run.title}
    return _("%(title)s: at the step %(step)s") % {"title": run.title, "step": step.word}


def _end(run: Run, steps: Sequence[Step]) -> str:
    words = {"title": run.title, "where": run.environment.name.lower()}
    if run.state is RunStatus.SUCCEEDED and run.applied:
        return ngettext(
            "%(count)d migration was applied to %(where)s",
            "%(count)d migrations were applied to %(where)s",
            len(run.applied),
        ) % {**words, "count": len(run.applied)}
    if run.state is RunStatus.NEEDS_ATTENTION:
        return _needing(run, words)
    failed = next((step for step in steps if step.status == StepStatus.FAILED), None)
    if run.state is RunStatus.FAILED and failed:
        return _("%(title)s failed at the step %(step)s") % {**words, "step": failed.word}
    said = {
        RunStatus.SUCCEEDED: _("%(title)s: succeeded"),
        RunStatus.FAILED: _("%(title)s failed"),
        RunStatus.ROLLED_BACK: _("%(title)s was rolled back"),
        RunStatus.CANCELLED: _("%(title)s was cancelled"),
        RunStatus.REJECTED: _("%(title)s was rejected"),
        RunStatus.EXPIRED: _("%(title)s was not approved in time"),
    }.get(run.state, _("%(title)s waits for approval"))
    return said % words


def _needing(run: Run, words: dict[str, str]) -> str:
    if run.way_back_id:
        return _("%(title)s: the way back that was chosen is under way") % words
    return _("%(title)s needs a decision: %(where)s stays locked until then") % words


def _in_two(run: Run) -> tuple[str, str]:
    """Why it failed, and in which state that left the database; "" where it was not said so."""
    said = run.sentence
    if not isinstance(said, Sentence) or set(said.parameters) != {"why", "state"}:
        return "", ""
    return _told(said.parameters["why"]), _told(said.parameters["state"])


def _told(part: object) -> str:
    text = tell(part) if isinstance(part, Sentence) else str(part)
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _of_database(run: Run) -> list[str]:
    found = run.result.get("availability")
    if not found or not found["samples"]:
        return []
    if not found["down_ms"]:
        return [_("The database always answered.")]
    return [
        _("The database did not answer for %(time)s.") % {"time": duration(found["down_ms"] / 1000)}
    ]


def _of_checks(health: Sequence[Answer]) -> list[str]:
    bad = sorted(answer.observed_at for answer in health if not answer.is_healthy)
    if not health:
        return []
    if not bad:
        return [
            ngettext(
                "The health check was healthy.",
                "All %(count)d answers of the health checks were healthy.",
                len(health),
            )
            % {"count": len(health)}
        ]
    said = ngettext(
        "%(bad)d of %(count)d answer of the health checks was unhealthy.",
        "%(bad)d of %(count)d answers of the health checks were unhealthy.",
        len(health),
    )
    return [said % {"bad": len(bad), "count": len(health)}, *_for_how_long(bad)]


def _for_how_long(bad: Sequence[datetime]) -> list[str]:
    seconds = (bad[-1] - bad[0]).total_seconds()
    if not seconds:
        return []
    return [
        _("The last unhealthy answer came %(time)s after the first.") % {"time": duration(seconds)}
    ]
