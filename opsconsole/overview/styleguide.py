"""Every component in every state, on one page, for whoever changes the looks. In debug mode only."""

from __future__ import annotations

from django import forms
from django.conf import settings
from django.http import Http404, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from opsconsole.access.http import ConsoleRequest
from opsconsole.access.permissions import require
from opsconsole.environments.migration_status import MigrationStatus
from opsconsole.health.choices import Health
from opsconsole.overview.panels import Act, Concern, Fact, FirstStep
from opsconsole.runs.choices import RunStatus, StepStatus

TONES = ("good", "warn", "bad", "info", "idle")


class Sample(forms.Form):
    """One field of each kind."""

    text = forms.CharField(label="Text", help_text="What it is for, in one sentence.")
    number = forms.IntegerField(label="Number (s)", min_value=1)
    choice = forms.ChoiceField(label="Choice", choices=[("a", "One"), ("b", "Another")])
    radio = forms.ChoiceField(
        label="One of few", choices=[("a", "One"), ("b", "Another")], widget=forms.RadioSelect
    )
    tick = forms.BooleanField(label="Tick", help_text="What it does when it is ticked.")
    area = forms.CharField(label="Lines", widget=forms.Textarea(attrs={"rows": 3}))


@require_GET
@require("console.view")
def styleguide(request: ConsoleRequest) -> HttpResponse:
    if not settings.DEBUG:
        raise Http404
    act = Act("Do it", "#")
    context = {
        "tones": TONES,
        "statuses": [*RunStatus, *StepStatus, *Health, *MigrationStatus],
        "concerns": list(Concern),
        "facts": [Fact("Label", f"in tone {tone}", "#", tone, "with a detail") for tone in TONES],
        "steps": [FirstStep("Done already", True, act), FirstStep("Still to do", False, act)],
        "form": Sample(initial={"text": "as it is"}),
        "refused": Sample({"number": "0"}, prefix="refused"),
        "bins": [None, 0, 0, 1, 0, 2, 0, 0],
    }
    return render(request, "opsconsole/styleguide.html", context)
