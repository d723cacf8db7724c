"""A run drawn to scale: its steps, and under them what answered meanwhile. Pure.

Moments are seconds since the epoch. Across, positions are per cent of the drawing's width, so that
its text keeps its size at any; down, they are pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

# Names stand left of the axis, and the duration of the last bar right of it.
LEFT, RIGHT = 15.0, 90.0
LEAST = 0.3
TOP, ROW, BAR = 22, 18, 10
MOST_TICKS = 8
ROUND_SECONDS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600)


@dataclass(frozen=True)
class Span:
    """Something that lasted; `tone` is "bad" for a step that failed."""

    word: str
    began: float
    ended: float
    tone: str = ""


@dataclass(frozen=True)
class Bar:
    x: float
    width: float
    y: int
    tone: str
    seconds: float

    @property
    def end(self) -> float:
        return self.x + self.width


@dataclass(frozen=True)
class Row:
    """A name and its bars; `seconds` is written behind the last one, where there is something."""

    word: str
    bars: list[Bar]
    seconds: float | None = None

    @property
    def base(self) -> int:
        """Where the line of its text stands."""
        return self.bars[0].y + BAR - 1


@dataclass(frozen=True)
class Tick:
    x: float
    seconds: float


@dataclass(frozen=True)
class Timeline:
    ticks: list[Tick]
    rows: list[Row]
    height: int = field(default=0)
    bar: int = BAR


@dataclass(frozen=True)
class _Axis:
    began: float
    seconds: float

    def at(self, moment: float) -> float:
        share = (moment - self.began) / self.seconds
        return LEFT + (RIGHT - LEFT) * min(max(share, 0), 1)

    def bar(self, span: Span, y: int, tone: str) -> Bar:
        x = min(self.at(span.began), RIGHT - LEAST)
        width = max(self.at(span.ended) - x, LEAST)
        return Bar(round(x, 3), round(width, 3), y, tone, span.ended - span.began)


def draw(
    steps: Sequence[Span],
    *,
    usual: tuple[str, float] | None = None,
    answers: tuple[str, Sequence[tuple[float, bool]]] | None = None,
    outages: tuple[str, Sequence[Span]] | None = None,
) -> Timeline | None:
    """The steps in their order, and the rows that are given with their words; None without a step.

    `usual` is in seconds; `answers` are moments, and whether the answer was good; `outages` are
    what interrupted a database that answered from the first step to the end of the last.
    """
    if not steps:
        return None
    began, ended = min(s.began for s in steps), max(s.ended for s in steps)
    axis = _Axis(began, max(ended - began, usual[1] if usual else 0, 0.001))
    heights = iter(range(TOP, TOP + ROW * (len(steps) + 4), ROW))
    rows = []
    if usual:
        bar = axis.bar(Span("", began, began + usual[1]), next(heights), "step usual")
        rows.append(Row(usual[0], [bar], usual[1]))
    for step in steps:
        bar = axis.bar(step, next(heights), f"step {step.tone}".strip())
        rows.append(Row(step.word, [bar], bar.seconds))
    if answers and answers[1]:
        y = next(heights)
        # Several checks answer at once: a bad answer is drawn over the good ones.
        marks = [
            axis.bar(Span("", at, at), y, "up" if is_good else "down")
            for at, is_good in sorted(answers[1], key=lambda answer: not answer[1])
        ]
        rows.append(Row(answers[0], marks))
    if outages:
        y = next(heights)
        up = axis.bar(Span("", began, ended), y, "up")
        rows.append(Row(outages[0], [up, *(axis.bar(o, y, "down") for o in outages[1])]))
    return Timeline(list(_ticks(axis)), rows, TOP + ROW * len(rows))


def _ticks(axis: _Axis) -> Iterator[Tick]:
    fits = (each for each in ROUND_SECONDS if axis.seconds / each <= MOST_TICKS)
    step = next(fits, axis.seconds)
    for number in range(int(axis.seconds / step) + 1):
        yield Tick(round(axis.at(axis.began + number * step), 3), number * step)
