"""Where features add their parts to the page of a run."""

from __future__ import annotations

from collections.abc import Callable

from django.utils.safestring import SafeString

from opsconsole.access.http import ConsoleRequest
from opsconsole.runs.models import Run

# HTML of a card on the run page, "" for none.
RUN_PANELS: list[Callable[[ConsoleRequest, Run], SafeString]] = []
