"""Where subjects and features add their parts to the overview's pages."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from opsconsole.access.http import ConsoleRequest
from opsconsole.access.models import User
from opsconsole.choices import Shown
from opsconsole.environments.models import Application, Environment, Target, TargetState
from opsconsole.health.choices import Health
from opsconsole.health.services import HealthDay
from opsconsole.runs.models import Run


@dataclass(frozen=True)
class Stage:
    """One target on the dashboard, as its environment.

    `change` is the newest run that changes it, `holder` the one that waits for a decision, and
    `moving` the one that is queued or at work. What the viewer may not see is not among the stages.
    """

    target: Target
    environment: Environment
    state: TargetState | None
    day: HealthDay
    change: Run | None = None
    holder: Run | None = None
    moving: Run | None = None

    @property
    def is_settled(self) -> bool:
        """Whether it was read, has nothing to be done, and no check of it fails."""
        state = self.state
        return not (
            state is None
            or state.error
            or state.troubled
            or state.pending
            or self.holder
            or self.moving
            or self.day.now is Health.UNHEALTHY
        )


class Concern(Shown):
    """Why somebody is needed, the worst first: the order and the look of all lines of it."""

    DECISION = "decision", _("Needs a decision")
    UNHEALTHY = "unhealthy", _("Unhealthy")
    FAILED = "failed", _("Failed")
    UNREADABLE = "unreadable", _("Cannot be read")
    TROUBLED = "troubled", _("Migrations in trouble")
    UNPROVEN = "unproven", _("Backups in trouble")
    UNSCHEDULED = "unscheduled", _("Not scheduled")
    UNCHECKED = "unchecked", _("Not checked")
    BASELINE = "baseline", _("Needs a baseline")
    WAITING = "waiting", _("Waiting")

    @classmethod
    def looks(cls) -> dict[str, tuple[str, str]]:
        return {
            cls.DECISION: ("warn", "triangle-alert"),
            cls.UNHEALTHY: ("bad", "circle-x"),
            cls.FAILED: ("bad", "circle-x"),
            cls.UNREADABLE: ("bad", "database"),
            cls.TROUBLED: ("warn", "triangle-alert"),
            cls.UNPROVEN: ("warn", "archive"),
            cls.UNSCHEDULED: ("warn", "clock"),
            cls.UNCHECKED: ("warn", "heart-pulse"),
            cls.BASELINE: ("info", "circle-help"),
            cls.WAITING: ("info", "list-checks"),
        }

    @property
    def lasts(self) -> bool:
        """Whether its moment is the first of a state that goes on, and not that of an event."""
        return self in {Concern.UNHEALTHY, Concern.UNREADABLE}

    @property
    def rank(self) -> int:
        """0 is the worst."""
        return list(Concern).index(self)


@dataclass(frozen=True)
class Act:
    """A button: a link, or a form that is posted with `key` where there is one."""

    label: str
    url: str
    key: str = ""


@dataclass(frozen=True)
class Need:
    """One line of "Needs you": what it is, since when, and the one act that comes next.

    A `detail` that `is_recorded` was kept in English.
    """

    concern: Concern
    environment: Environment
    text: str
    act: Act
    since: datetime | None = None
    detail: str = ""
    is_recorded: bool = False


@dataclass(frozen=True)
class FirstStep:
    """One line of what a new environment still wants. `act` is None where the viewer may not."""

    text: str
    is_done: bool
    act: Act | None = None


@dataclass(frozen=True)
class Fact:
    """One line of an environment's card on the dashboard, and a tile of its page, which has room
    for the detail."""

    label: str
    text: str
    url: str = ""
    tone: str = ""
    detail: str = ""
    read_at: datetime | None = None


@dataclass(frozen=True)
class Coming:
    """What the console will do by itself, and when."""

    at: datetime
    environment: Environment
    text: str
    url: str
    icon: str


@dataclass(frozen=True)
class Found:
    """One answer of the search; `is_exact` where the text names it, and not just a part of it."""

    kind: str
    text: str
    url: str
    icon: str
    is_exact: bool = False


class PartRefused(SafeString):
    """A part that says why it cannot show what was asked for: so does the status of its page."""


# A rendered card on the environment page, empty for none; shown in order of registration.
ENVIRONMENT_PANELS: list[Callable[[ConsoleRequest, Target], SafeString]] = []
# A rendered card on the application page, made from the targets that the user may see.
APPLICATION_PANELS: list[Callable[[ConsoleRequest, Application, list[Target]], SafeString]] = []
# HTML of buttons in the head of the environment page.
ENVIRONMENT_ACTIONS: list[Callable[[ConsoleRequest, Target], SafeString]] = []
# One fact per target, for all of them at once: `{target id: Fact}`.
ENVIRONMENT_FACTS: list[Callable[[list[Target]], dict[int, Fact]]] = []
# One tile of the environment page.
ENVIRONMENT_TILES: list[Callable[[Target], Fact]] = []
# A rendered card on the settings page.
SETTINGS_PANELS: list[Callable[[ConsoleRequest], SafeString]] = []
# Answers to a search text, for a user.
FINDERS: list[Callable[[User, str], list[Found]]] = []
# What somebody has to do in these stages, as far as the user may see them.
NEEDS: list[Callable[[User, list[Stage]], Iterable[Need]]] = []
# The change that the user may start in a stage: `{target id: Act}`.
CHANGES: list[Callable[[User, list[Stage]], dict[int, Act]]] = []
# What will happen in these targets before the given moment, each schedule at its next time only.
COMING: list[Callable[[list[Target], datetime], Iterable[Coming]]] = []
# What a new environment wants first, in the order in which a person does it.
FIRST_STEPS: list[Callable[[User, Target], FirstStep]] = []
