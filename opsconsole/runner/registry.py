"""How features tell the platform what runs and work of each kind do, without being imported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.utils.functional import Promise

from opsconsole.choices import RunKind, RunStatus

if TYPE_CHECKING:
    from opsconsole.models import Run
    from opsconsole.runner.step import RunContext, Step


@dataclass(frozen=True)
class Resolution:
    """How a lost run ended, as read from evidence."""

    status: RunStatus
    summary: str


@dataclass(frozen=True)
class Pipeline:
    """What a run of one kind does.

    `steps(context)` are run in order. When one fails, `on_failure(context)` returns the steps
    of the way back, possibly none. `cleanup(context)` runs at the end, however it comes.
    `describe(context)` says in what state the database is, for the summary.
    """

    kind: RunKind
    steps: Callable[[RunContext], list[Step]]
    resolve: Callable[[Run], Resolution]
    describe: Callable[[RunContext], str]
    on_failure: Callable[[RunContext], list[Step]] = field(default=lambda _context: [])
    cleanup: Callable[[RunContext], None] = field(default=lambda _context: None)


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
    handle: Callable[[dict[str, Any]], Callable[[], object]]


# Read the target of a run anew and keep what was seen, before the run that changed it is said to
# be over. They never raise: what cannot be read is kept as that.
STATE_READERS: list[Callable[[Run], object]] = []
PIPELINES: dict[str, Pipeline] = {}
PERIODIC: list[Periodic] = [Periodic("opsconsole.sample_health", "HEALTH_SAMPLE_SECONDS")]


def register_pipeline(pipeline: Pipeline) -> None:
    PIPELINES[pipeline.kind] = pipeline


WORK: dict[str, Work] = {}
# Keys that services put on the work list; a system check finds those that nobody does.
WORK_KEYS: set[str] = set()


def work_key(key: str) -> str:
    """Declare the key of work that this module puts on the list; returns it."""
    WORK_KEYS.add(key)
    return key


def register_work(work: Work) -> None:
    WORK[work.key] = work
