"""What one operation is: the contract that features fill and the platform drives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic

from django.utils.translation import gettext as _
from typing_extensions import TypeVar

from opsconsole.access.models import User
from opsconsole.environments.models import Target
from opsconsole.runs.choices import RunKind, RunStatus
from opsconsole.runs.documents import Parameters, Result, Unreadable
from opsconsole.runs.gates import Gate
from opsconsole.runs.models import Plan, Run
from opsconsole.runs.step import Promise, RunContext, Step
from opsconsole.sentences import Text

P = TypeVar("P", bound=Parameters, default=Parameters)
R = TypeVar("R", bound=Result, default=Result)


@dataclass(frozen=True)
class Resolution:
    """How a lost run ended, as read from evidence."""

    status: RunStatus
    summary: Text


@dataclass(frozen=True)
class Asked(Generic[P]):
    """A run as it is requested or claimed. A requester of None is the console's own schedule."""

    target: Target
    requester: User | None
    parameters: P
    plan: Plan | None = None


@dataclass(frozen=True)
class LostRun(Generic[P, R]):
    """A run whose worker was lost. What is set in `result` is kept with the resolution."""

    run: Run
    parameters: P
    result: R


class Operation(ABC, Generic[P, R]):
    """What a run does, from the right that it takes to how it is undone.

    `kind` is the word it is listed and filtered under. `action` is the permission it takes, when
    it is requested and again when it is claimed. One that `changes_target` holds the target
    against all others that do. Of two active runs with the same `excludes` on one target the
    second is refused; "" excludes nothing.
    """

    Parameters: type[P]
    Result: type[R]
    kind: ClassVar[RunKind]
    action: ClassVar[str]
    changes_target: ClassVar[bool] = False

    @property
    def key(self) -> str:
        """What its runs are stored under; never changed, and never given to another one."""
        return self.Parameters.operation

    @property
    def excludes(self) -> str:
        return self.kind.value

    def read(self, run: Run) -> P:
        """What the run was asked to do. Raises Unreadable."""
        return self.Parameters.read(run.parameters, run.parameters_version)

    def title(self, where: str, parameters: P) -> str:
        """What it does, as a heading; `where` is the environment's name within a sentence."""
        return self._plain_title(where)

    def title_of(self, run: Run, where: str) -> str:
        """The title of a stored run: the plain one when its parameters cannot be read."""
        try:
            return self.title(where, self.read(run))
        except Unreadable:
            return self._plain_title(where)

    def _plain_title(self, where: str) -> str:
        return _("%(what)s %(where)s") % {"what": self.kind.label, "where": where}

    @abstractmethod
    def steps(self, target: Target, parameters: P) -> Sequence[Step[P, R]]:
        """The steps of a run, in order. Asks nothing outside the console's own database."""

    def gates(self, asked: Asked[P]) -> list[Gate]:
        """What has to hold before it, with the stored evidence; reads no target.

        Besides what holds for every operation: the requester's right, and that the plan is intact.
        """
        return []

    def promises(self, target: Target, parameters: P) -> list[Promise]:
        """What will happen, step by step, as a person confirms it."""
        return [step.promise(target, parameters) for step in self.steps(target, parameters)]

    def on_failure(self, target: Target, parameters: P) -> str:
        """What happens when a step fails, as a person confirms it."""
        return _("If a step fails, the ones after it do not run.")

    def way_back(self, context: RunContext[P, R]) -> Sequence[Step[P, R]]:
        """The steps that go back after `context.failure`; none where there is nothing to undo.

        Raises NeedsAttention when a person has to choose.
        """
        return []

    @abstractmethod
    def describe(self, context: RunContext[P, R]) -> Text:
        """In which state the database is now: a sentence or two of the summary."""

    @abstractmethod
    def resolve(self, lost: LostRun[P, R]) -> Resolution:
        """Read from evidence how a lost run ended; runs nothing again. Raises AdapterError or
        psycopg.Error while the evidence cannot be read."""

    def cleanup(self, context: RunContext[P, R]) -> None:
        """Remove what the run leaves, however it ended."""
