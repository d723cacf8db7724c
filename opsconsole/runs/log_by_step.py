"""The lines of a run's log under the steps during which they were said. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from opsconsole.runs.models import LogLine, Step


@dataclass
class Stretch:
    """Lines that follow each other and belong to one step, or to none."""

    step: Step | None
    lines: list[LogLine] = field(default_factory=list)


def place_at(at: float, began: Sequence[float]) -> int:
    """The place of the step during which something was said, -1 before the first one.

    `began` are the moments at which steps began, in order. Only these divide a log: what is said
    after a step's end came of it, and a worker's clock may be a little ahead of the database's,
    which says when steps end.
    """
    return bisect_right(began, at) - 1


def stretches_of(lines: Iterable[LogLine], steps: Iterable[Step]) -> list[Stretch]:
    """The lines in their order, divided by steps. A line never goes back to an earlier step, even
    where the clock was set back."""
    begun = sorted((s.started_at.timestamp(), s.position, s) for s in steps if s.started_at)
    began = [moment for moment, _position, _step in begun]
    found: list[Stretch] = []
    place = -1
    for line in lines:
        before, place = place, max(place, place_at(line.at, began))
        if not found or place > before:
            found.append(Stretch(begun[place][2] if place >= 0 else None))
        found[-1].lines.append(line)
    return found
