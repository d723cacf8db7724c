"""Gates: how several are judged, and what each of them says of its evidence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrations_app import gates as migrations
from opsconsole.runs.gates import (
    Closed,
    FreshReading,
    Gate,
    Open,
    PlanIntact,
    RequesterMay,
    Waiting,
    in_the_way,
    judge,
)

NOW = datetime(2026, 11, 25, 3, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Given(Gate):
    """A gate whose verdict is given."""

    verdict: Open | Waiting | Closed
    again: bool = False
    name: ClassVar[object] = "given"

    @property
    def is_read_again(self) -> bool:
        return self.again

    def check(self, now: datetime) -> Open | Waiting | Closed:
        return self.verdict


WHY = st.text(min_size=1, max_size=5)
VERDICTS = st.one_of(
    st.just(Open()), st.builds(Waiting, WHY, st.none() | st.just(NOW)), st.builds(Closed, WHY)
)
GATES = st.lists(st.builds(Given, VERDICTS, st.booleans()), max_size=6)


def rank(gates, *, at_claim: bool) -> type:
    stop = in_the_way(judge(gates, NOW), at_claim=at_claim)
    return type(stop.verdict) if stop else Open


@given(GATES, st.booleans())
def test_closed_beats_waiting_beats_open(gates, at_claim):
    counted = [
        type(one.verdict)
        for one in gates
        if not (at_claim and one.again and isinstance(one.verdict, Waiting))
    ]
    expected = next((kind for kind in (Closed, Waiting) if kind in counted), Open)
    assert rank(gates, at_claim=at_claim) is expected


@given(GATES, st.booleans(), st.randoms())
def test_order_of_gates_changes_nothing_but_which_of_two_alike_is_told(gates, at_claim, random):
    shuffled = list(gates)
    random.shuffle(shuffled)
    assert rank(gates, at_claim=at_claim) is rank(shuffled, at_claim=at_claim)


@given(GATES)
def test_judging_is_pure_and_leaves_no_gate_out(gates):
    assert judge(gates, NOW) == judge(gates, NOW)
    assert [one.gate for one in judge(gates, NOW)] == gates


@given(GATES, st.builds(Given, VERDICTS))
def test_another_gate_never_opens_what_was_shut(gates, more):
    order = [Open, Waiting, Closed]
    before, after = rank(gates, at_claim=False), rank([*gates, more], at_claim=False)
    assert order.index(after) >= order.index(before)


TEXT = "m1 failed and is unresolved"


@pytest.mark.parametrize(
    ("gate", "verdict"),
    [
        (RequesterMay("ann", True), Open()),
        (RequesterMay("ann", False), Closed("ann no longer has the right to run this.")),
        (PlanIntact("a", "a"), Open()),
        (PlanIntact("a", "b"), Closed("the stored plan is not the one that was confirmed.")),
        (FreshReading(None, "", 60), Waiting("The database has not been read yet.")),
        (FreshReading(NOW, "no route", 60), Waiting("The database cannot be read: no route")),
        (FreshReading(NOW - timedelta(seconds=60), "", 60), Open()),
        (
            FreshReading(NOW - timedelta(seconds=61), "", 60),
            Waiting("The database was read too long ago: open the page again."),
        ),
        (migrations.HistoryHealthy((), "/x"), Open()),
        (migrations.HistoryHealthy((TEXT, "m2"), "/x"), Closed(f"{TEXT}; m2", "/x")),
        (migrations.FindingsAnswered((), "/x"), Open()),
        (migrations.FindingsAnswered(("drops users",), "/x"), Closed("drops users", "/x")),
        (migrations.SomethingPending("Shop staging", 1), Open()),
        (
            migrations.SomethingPending("Shop staging", 0),
            Closed("Shop staging is up to date: nothing is pending."),
        ),
        (migrations.PlanCurrent(()), Open()),
        (
            migrations.PlanCurrent(("m1 was added",)),
            Closed("Not started, because it changed since it was shown: m1 was added."),
        ),
        (migrations.ChecklistAnswered(()), Open()),
        (
            migrations.ChecklistAnswered(("It is tested",)),
            Closed("Not confirmed yet: It is tested.", field="checklist"),
        ),
    ],
)
def test_gate_judges_its_evidence(gate, verdict):
    found = gate.check(NOW)
    if not isinstance(found, Open):
        found = replace(found, why=str(found.why))
    assert found == verdict
