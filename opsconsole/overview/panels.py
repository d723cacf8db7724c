"""Where subjects and features add their parts to the overview's pages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from django.utils.safestring import SafeString

from opsconsole.access.http import ConsoleRequest
from opsconsole.access.models import User
from opsconsole.environments.models import Application, Target


@dataclass(frozen=True)
class Fact:
    """One line of an environment's card on the dashboard."""

    label: str
    text: str
    url: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Found:
    """One answer of the search."""

    kind: str
    text: str
    url: str
    icon: str


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
# A rendered card on the settings page.
SETTINGS_PANELS: list[Callable[[ConsoleRequest], SafeString]] = []
# Answers to a search text, for a user.
FINDERS: list[Callable[[User, str], list[Found]]] = []
