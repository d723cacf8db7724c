"""Where the migrations of a stage stand, in a word."""

from __future__ import annotations

from dataclasses import dataclass

from django.utils.translation import gettext as _

from opsconsole.overview.panels import Stage
from opsconsole.runs.models import Run


@dataclass(frozen=True)
class Standing:
    """A word for a stage, and the run that it is about."""

    text: str
    tone: str = ""
    run: Run | None = None


def standing_of(stage: Stage) -> Standing:
    """Where its migrations stand; what holds the stage comes before that."""
    if stage.holder:
        return Standing(_("Needs a decision"), "warn", stage.holder)
    if stage.moving:
        return Standing(stage.moving.get_status_display(), "info", stage.moving)
    if not stage.state:
        return Standing(_("Not read yet"))
    if stage.state.error:
        return Standing(_("Cannot be read"), "bad")
    if count := len(stage.state.troubled):
        return Standing(_("%(n)d in trouble") % {"n": count}, "bad")
    if count := len(stage.state.pending):
        return Standing(_("%(n)d pending") % {"n": count}, "info")
    if not stage.state.seen.migrations:
        return Standing(_("No migrations"), "warn")
    return Standing(_("Up to date"))
