"""Forms of runs: the filters of the list, and how one ended."""

from __future__ import annotations

from django import forms
from django.utils.translation import gettext_lazy as _

from opsconsole.environments.forms import EnvironmentFilterForm
from opsconsole.events.reasons import LONGEST
from opsconsole.runs.choices import RunKind, RunStatus
from opsconsole.web.forms import ReasonedForm
from opsconsole.web.widgets import FilterSelect

ENDS = (
    (RunStatus.SUCCEEDED.value, _("succeeded: the database is as wanted")),
    (RunStatus.FAILED.value, _("failed: the database is kept as it is")),
    (RunStatus.ROLLED_BACK.value, _("was rolled back by hand")),
)
CHOOSE = _("Choose how the run ended.")


class RunFilterForm(EnvironmentFilterForm):
    kind = forms.ChoiceField(
        label=_("What"),
        required=False,
        choices=[("", _("All")), *RunKind.choices],
        widget=FilterSelect,
    )
    status = forms.ChoiceField(
        label=_("Result"),
        required=False,
        choices=[("", _("All")), *RunStatus.choices],
        widget=FilterSelect,
    )


class CancelForm(ReasonedForm):
    """Asked for where a protected environment's run is cancelled: one click is not enough."""

    reason = forms.CharField(
        label=_("Reason"),
        required=False,
        max_length=LONGEST,
        help_text=_(
            "It stops as soon as its step can. Migrations that are applied stay applied; its page says "
            "what is in the database then."
        ),
    )
    sure = forms.CharField(widget=forms.HiddenInput, initial="yes", required=False)


class DecideForm(ReasonedForm):
    """How a run that needs attention ended, by a person's judgement."""

    status = forms.TypedChoiceField(
        label=_("This run"),
        choices=[("", _("Choose how it ended")), *ENDS],
        coerce=RunStatus,
        error_messages={"required": CHOOSE, "invalid_choice": CHOOSE},
    )
    field_order = ["status", "reason"]
