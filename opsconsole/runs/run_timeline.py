"""The timeline of a run, from what is stored with it."""

from __future__ import annotations

from collections.abc import Sequence

from django.utils import timezone
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from opsconsole.formats import duration
from opsconsole.runs.choices import StepStatus
from opsconsole.runs.models import Run, Step
from opsconsole.runs.outcome import Answer
from opsconsole.runs.timeline import Span, Timeline, draw


def timeline_of(
    run: Run, steps: Sequence[Step], health: Sequence[Answer], usual: float | None
) -> tuple[Timeline | None, str]:
    """The drawing, None before the first step, and the same in words."""
    spans = [_span(step) for step in steps if step.started_at]
    outages = _outages(run)
    timeline = draw(
        spans,
        usual=(_("Usually"), usual) if usual else None,
        answers=(_("Health checks"), [(h.observed_at.timestamp(), h.is_healthy) for h in health]),
        outages=None if outages is None else (_("Database"), outages),
    )
    return timeline, _in_words(spans, health, outages)


def _span(step: Step) -> Span:
    assert step.started_at
    ended = step.finished_at or timezone.now()
    tone = "bad" if step.status == StepStatus.FAILED else ""
    return Span(step.word, step.started_at.timestamp(), ended.timestamp(), tone)


def _outages(run: Run) -> list[Span] | None:
    """None where it was not measured."""
    found = run.result.get("availability")
    if not found or not found["samples"]:
        return None
    return [Span("", each["at"], each["at"] + each["ms"] / 1000) for each in found["outages"]]


def _in_words(
    spans: Sequence[Span], health: Sequence[Answer], outages: Sequence[Span] | None
) -> str:
    said = [capfirst(", ".join(f"{s.word} {duration(s.ended - s.began)}" for s in spans))]
    if health:
        text = ngettext(
            "%(count)d answer of health checks, unhealthy: %(bad)d",
            "%(count)d answers of health checks, unhealthy: %(bad)d",
            len(health),
        )
        bad = sum(not answer.is_healthy for answer in health)
        said.append(text % {"count": len(health), "bad": bad})
    if outages:
        down = duration(sum(each.ended - each.began for each in outages))
        said.append(_("the database did not answer for %(time)s") % {"time": down})
    elif outages is not None:
        said.append(_("the database always answered"))
    return "; ".join(said)
