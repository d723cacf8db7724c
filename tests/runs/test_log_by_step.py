"""A run's log by step: which line belongs to which, and which steps are open on the page."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from backups_app import services as backups
from opsconsole.runs.choices import RunStatus, StepStatus
from opsconsole.runs.log_by_step import place_at, stretches_of
from opsconsole.runs.models import LogChunk, LogLine, Run, Step

BEGAN = datetime(2026, 11, 26, 14, tzinfo=UTC)


@pytest.mark.parametrize(
    ("second", "place"),
    [
        pytest.param(-0.001, -1, id="before the first step"),
        pytest.param(0, 0, id="at the moment at which the first begins"),
        pytest.param(9.999, 0, id="just before the second"),
        pytest.param(10, 1, id="at the moment at which the second begins"),
        pytest.param(500, 1, id="after the last one's end"),
    ],
)
def test_line_belongs_to_the_step_that_began_last(second, place):
    assert place_at(second, [0, 10]) == place


def test_line_that_nothing_began_before_belongs_to_no_step():
    assert place_at(5, []) == -1


def step(position: int, second: int | None, status: str = StepStatus.SUCCEEDED) -> Step:
    began = None if second is None else BEGAN + timedelta(seconds=second)
    return Step(position=position, name=f"step {position}", status=status, started_at=began)


def said(*seconds: float) -> list[LogLine]:
    at = BEGAN.timestamp()
    return [LogLine(number, at + second, "", "") for number, second in enumerate(seconds, 1)]


def divided(lines: list[LogLine], steps: list[Step]) -> list[tuple[int | None, list[int]]]:
    return [
        (part.step.position if part.step else None, [line.number for line in part.lines])
        for part in stretches_of(lines, steps)
    ]


def test_log_is_divided_where_steps_begin_and_what_is_said_before_has_no_head():
    steps = [step(0, 0), step(1, 10), step(2, 20), step(3, None)]
    lines = said(-2, -1, 0, 1, 25)
    assert divided(lines, steps) == [(None, [1, 2]), (0, [3, 4]), (2, [5])]


def test_clock_that_was_set_back_leads_no_line_back_to_an_earlier_step():
    assert divided(said(11, 9, 12, 21), [step(0, 0), step(1, 10), step(2, 20)]) == [
        (1, [1, 2, 3]),
        (2, [4]),
    ]


@pytest.fixture
def kept(environment, operator) -> Run:
    """A run of three steps with two lines each, kept as one chunk, after a line of none."""
    run = backups.request_backup(
        actor=operator, target=environment.targets.get(), idempotency_key="b" * 32
    )
    ends = (StepStatus.SUCCEEDED, StepStatus.FAILED, StepStatus.CANCELLED)
    steps = [step(place, place * 10, status) for place, status in enumerate(ends)]
    for each in steps:
        each.run = run
    Step.objects.bulk_create(steps)
    lines = [[line.at, "", "said"] for line in said(-1, 0, 1, 10, 11, 20, 21)]
    LogChunk.objects.create(run=run, first_seq=1, last_seq=len(lines), lines=lines)
    Run.objects.filter(pk=run.pk).update(log_seq=len(lines), status=RunStatus.FAILED)
    return run


def shown(page: str) -> list[tuple[str, bool, list[int]]]:
    """The heads on a page: which step, whether it is open, and the lines under it."""
    found = re.findall(r'<details data-step="(\d+)"( open)?>(.*?)</details>', page, re.DOTALL)
    return [
        (position, bool(is_open), [int(number) for number in re.findall(r'id="L(\d+)"', inside)])
        for position, is_open, inside in found
    ]


def test_of_a_run_that_is_over_only_what_did_not_succeed_is_open(as_role, kept):
    page = as_role("viewer").get(kept.get_absolute_url()).content.decode()
    assert shown(page) == [("0", False, [2, 3]), ("1", True, [4, 5]), ("2", True, [6, 7])]
    assert page.index('id="L1"') < page.index("<details data-step")
    assert page.count("2 lines") == 3
    # The list of steps leads to the heads.
    assert set(re.findall(r'href="#(step-\d)"', page)) == set(re.findall(r'id="(step-\d)"', page))
    assert "Unfold all" in page


def test_nothing_is_folded_while_a_run_is_live_or_in_what_is_loaded_later(as_role, kept):
    client = as_role("viewer")
    tail = client.get(f"{kept.get_absolute_url()}/log", {"after": 2}).content.decode()
    assert shown(tail)[0] == ("0", True, [3])
    Run.objects.update(status=RunStatus.RUNNING)
    page = client.get(kept.get_absolute_url()).content.decode()
    assert [is_open for _position, is_open, _lines in shown(page)] == [True] * 3


def test_run_of_one_step_has_nothing_to_fold_at_once(as_role, kept):
    kept.steps.exclude(position=0).delete()
    page = as_role("viewer").get(kept.get_absolute_url()).content.decode()
    assert "Unfold all" not in page
