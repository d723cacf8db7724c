"""How features tell the platform what runs and work of each kind do, without being imported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from django.utils.functional import Promise

from opsconsole.runner.documents import Parameters, Result, Unreadable

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from opsconsole.models import Run
    from opsconsole.runner.operation import Operation

    P = TypeVar("P", bound=Parameters)
    R = TypeVar("R", bound=Result)


@dataclass(frozen=True)
class Periodic:
    """A task sent to the short queue for every environment, every `setting` seconds."""

    task: str
    setting: str


@dataclass(frozen=True)
class Work:
    """Work of one kind that is put on the work list.

    `handle(arguments)` does it on a worker, outside of any transaction: it may take the network,
    and may come again for work that it has already done. It returns what writes the outcome into
    the console's own database; that is called in the transaction that marks the item done. When
    either raises, the item is tried again later. `title` is what people read.
    """

    key: str
    title: str | Promise
    handle: Callable[[dict[str, object]], Callable[[], object]]


# Read the target of a run anew and keep what was seen, before the run that changed it is said to
# be over. They never raise: what cannot be read is kept as that.
STATE_READERS: list[Callable[[Run], object]] = []
OPERATIONS: dict[str, Operation] = {}
PERIODIC: list[Periodic] = [Periodic("opsconsole.sample_health", "HEALTH_SAMPLE_SECONDS")]


WORK: dict[str, Work] = {}
# Keys that services put on the work list; a system check finds those that nobody does.
WORK_KEYS: set[str] = set()


def work_key(key: str) -> str:
    """Declare the key of work that this module puts on the list; returns it."""
    WORK_KEYS.add(key)
    return key


def register_work(work: Work) -> None:
    WORK[work.key] = work


def register(operation: Operation[P, R]) -> None:
    """Let runs of this operation be requested and executed. Raises ValueError for a taken key."""
    if operation.key in OPERATIONS:
        raise ValueError(f"there already is an operation {operation.key}")
    # Its parameters and result are read by itself alone; who finds it here knows that it has some.
    OPERATIONS[operation.key] = cast("Operation", operation)


def parameters_of(run: Run) -> Parameters | None:
    """What a run was asked to do; None where this version of the console cannot tell."""
    operation = OPERATIONS.get(run.operation)
    try:
        return operation.read(run) if operation else None
    except Unreadable:
        return None
