from __future__ import annotations

from functools import lru_cache
from typing import Any

from django import forms
from django.utils.translation import get_language, gettext, override
from django.utils.translation import gettext_lazy as _

from opsconsole.environments.forms import EnvironmentFilterForm
from opsconsole.events.catalogue import CATALOGUE
from opsconsole.language import ENGLISH
from opsconsole.web.widgets import FilterSelect


def _events() -> list[tuple[str, str]]:
    """Every event with its sentence, events of one subject side by side."""
    return _events_in(get_language() or ENGLISH)


# A hundred sentences on every page of the trail.
@lru_cache(maxsize=32)
def _events_in(language: str) -> list[tuple[str, str]]:
    with override(language):
        outlines = [(key, str(CATALOGUE[key].outline)) for key in sorted(CATALOGUE)]
        return [("", gettext("All")), *outlines]


class AuditFilterForm(EnvironmentFilterForm):
    """Filters of the audit trail; dates are days in the viewer's time zone, both included."""

    who = forms.CharField(label=_("Who"), required=False, max_length=100)
    event = forms.ChoiceField(label=_("What"), required=False, choices=_events, widget=FilterSelect)
    what = forms.CharField(label=_("Containing"), required=False, max_length=64)
    since = forms.DateField(
        label=_("From"), required=False, widget=forms.DateInput(attrs={"type": "date"})
    )
    until = forms.DateField(
        label=_("To"), required=False, widget=forms.DateInput(attrs={"type": "date"})
    )
    field_order = ["who", "event", "what", "environment"]

    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        since, until = given.get("since"), given.get("until")
        if since and until and since > until:
            self.add_error("until", _("This day is before the first one."))
        return given
