"""What steps leave: for later steps under notes, and with the run as its result."""

from __future__ import annotations

import ast
import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrations_app.runs.results import Landed, MigrateResult
from opsconsole.runs.registry import OPERATIONS
from opsconsole.runs.step import Note, RunContext, Step

RESULTS = [operation.Result for operation in OPERATIONS.values()]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=3,
)
FIELDS = sorted({name for result in RESULTS for name in result.model_fields} | {"schema_after"})


@given(st.sampled_from(RESULTS), st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4))
def test_whatever_result_an_older_version_left_is_read_and_kept_as_it_is(result, data):
    read = result.read(data)
    stored = read.stored_over(data)
    assert stored.keys() == data.keys()
    assert result.read(stored) == read


def test_value_of_another_shape_is_not_read_and_stays_stored():
    data = {"applied": "all", "own_writes": 3, "schema_after": "abc"}
    read = MigrateResult.read(data)
    assert (read.applied, read.own_writes) == (None, 3)
    assert read.stored_over(data) == data


def test_result_is_stored_as_pages_and_the_command_line_read_it():
    result = MigrateResult()
    assert result.stored_over({}) == {}
    result.begin()
    result.applied = ["m1"]
    result.landed = [Landed(line=2, text="SELECT 1")]
    result.timings = {"m1": ("2026-11-25T00:00:00+00:00", 0.5)}
    result.add_writes(4)
    assert result.stored_over({"schema_after": "abc"}) == {
        "schema_after": "abc",
        "applied": ["m1"],
        "landed": [{"line": 2, "text": "SELECT 1"}],
        "timings": {"m1": ["2026-11-25T00:00:00+00:00", 0.5]},
        "own_writes": 4,
        "migrating": True,
    }


def test_note_is_told_by_itself_not_by_its_name():
    context = RunContext.__new__(RunContext)
    context._notes = {}
    one, other = Note[int]("number"), Note[int]("number")
    context.put(one, 1)
    assert (context.get(one), context.find(other)) == (1, None)
    with pytest.raises(LookupError, match="has put down the number"):
        context.get(other)


def step_classes() -> list[type[Step]]:
    found: list[type[Step]] = []
    waiting = [Step]
    while waiting:
        under = waiting.pop().__subclasses__()
        found += under
        waiting += under
    return [step for step in found if step.__module__.split(".")[0] in APPS]


APPS = {"opsconsole", "backups_app", "migrations_app"}


@pytest.mark.parametrize("step", step_classes(), ids=lambda step: step.__qualname__)
def test_step_runs_no_other_step(step):
    names = {each.__name__ for each in step_classes()}
    calls = [
        node.func
        for node in ast.walk(ast.parse(inspect.getsource(inspect.getmodule(step))))
        if isinstance(node, ast.Call)
    ]
    made = {call.id for call in calls if isinstance(call, ast.Name)}
    assert not made & names
