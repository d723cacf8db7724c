"""How features tell the platform what its runs do, without being imported by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from opsconsole.environments.models import Target
from opsconsole.runs.documents import Parameters, Unreadable
from opsconsole.runs.models import TITLES, Run
from opsconsole.runs.operation import Operation, P, R
from opsconsole.runs.step import Promise
from opsconsole.work.sending import TaskKey


@dataclass(frozen=True)
class Periodic:
    """A task sent to the short queue every `setting` seconds, with the id of every target; one
    `of_environments`, with that of every environment."""

    task: TaskKey
    setting: str
    of_environments: bool = False

    def about(self, target: Target) -> int:
        """The id that it is sent with for this target."""
        return target.environment_id if self.of_environments else target.pk


@dataclass(frozen=True)
class Outlook:
    """What a person is told before a run: its steps, and what happens when one of them fails."""

    promises: list[Promise]
    on_failure: str


# Read the target of a run anew and keep what was seen, before the run that changed it is said to
# be over. They never raise: what cannot be read is kept as that.
STATE_READERS: list[Callable[[Run], object]] = []
OPERATIONS: dict[str, Operation] = {}
PERIODIC: list[Periodic] = []


def register(operation: Operation[P, R]) -> None:
    """Let runs of this operation be requested and executed. Raises ValueError for a taken key."""
    if operation.key in OPERATIONS:
        raise ValueError(f"there already is an operation {operation.key}")
    # Its parameters and result are read by itself alone; who finds it here knows that it has some.
    OPERATIONS[operation.key] = cast("Operation", operation)
    TITLES[operation.key] = operation.title_of


def outlook(parameters: Parameters, target: Target) -> Outlook:
    """What a run with these parameters will do there. Asks nothing outside the console."""
    operation = OPERATIONS[parameters.operation]
    return Outlook(operation.promises(target, parameters), operation.on_failure(target, parameters))


def steps_to_come(run: Run) -> list[str]:
    """The names of the steps that a run will take; [] where this version cannot tell."""
    asked = parameters_of(run)
    if asked is None:
        return []
    return [step.name for step in OPERATIONS[run.operation].steps(run.target, asked)]


def parameters_of(run: Run) -> Parameters | None:
    """What a run was asked to do; None where this version of the console cannot tell."""
    operation = OPERATIONS.get(run.operation)
    try:
        return operation.read(run) if operation else None
    except Unreadable:
        return None
