"""One cell of the board: a tag of its own, because a board has thousands of them."""

from __future__ import annotations

from functools import lru_cache

from django import template
from django.utils.dates import MONTHS_3
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe
from django.utils.timezone import localtime
from django.utils.translation import get_language
from django.utils.translation import gettext as _

from migrations_app.reading.matrix import Cell
from opsconsole.choices import look_of
from opsconsole.environments.migration_status import MigrationStatus
from opsconsole.formats import duration
from opsconsole.templatetags.console import icon

register = template.Library()


@register.simple_tag
def board_cell(cell: Cell) -> SafeString:
    """The state with its icon and word, linked, and when it was applied or how risky it is."""
    shown = _look(cell.state, get_language())
    if not cell.url:
        return mark_safe(f'<span class="muted">{escape(_(cell.state.word))}</span>')  # noqa: S308
    link = f'<a class="cell {cell.state.tone}" href="{escape(cell.url)}">{shown}</a>'
    note = escape(_note(cell))
    return mark_safe(f"{link}<small>{note}</small>" if note else link)  # noqa: S308


@lru_cache(maxsize=100)
def _look(state: MigrationStatus, _language: str | None) -> str:
    tone, name, word = look_of(state)
    return f"{icon(name, tone)}{escape(word)}"


def _note(cell: Cell) -> str:
    if cell.applied_at:
        when = localtime(cell.applied_at)
        took = "" if cell.seconds is None else f", {duration(cell.seconds)}"
        return f"{when.day} {MONTHS_3[when.month].title()} {when:%Y, %H:%M}{took}"
    return _("%(risk)s risk") % {"risk": _(cell.risk.word)} if cell.risk else ""
