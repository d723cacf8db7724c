"""Where features add their parts to the page of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from django.utils.safestring import SafeString

from opsconsole.access.http import ConsoleRequest
from opsconsole.runs.models import Run


@dataclass(frozen=True)
class NextAct:
    """What can be done after a run: a link to the page that asks for it. `is_first` marks what is
    most likely wanted next."""

    title: str
    url: str
    is_first: bool = False


# HTML of a card on the run page, "" for none.
RUN_PANELS: list[Callable[[ConsoleRequest, Run], SafeString]] = []
# The same, of a run that needs a decision: what somebody can choose.
RUN_CHOICES: list[Callable[[ConsoleRequest, Run], SafeString]] = []
# What the reader may do after a run that is over.
NEXT_ACTS: list[Callable[[ConsoleRequest, Run], list[NextAct]]] = []
