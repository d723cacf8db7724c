from __future__ import annotations

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from backups_app.models import Backup
from opsconsole.models import Environment


class RestoreForm(forms.Form):
    """Where a backup goes, why, and the typed name of what it replaces."""

    environment = forms.ModelChoiceField(
        Environment.objects.none(), label=_("Restore into"), empty_label=None
    )
    reason = forms.CharField(label=_("Why"), max_length=500)
    typed_name = forms.CharField(
        label=_("Type the short name of the environment it replaces"), max_length=50
    )

    def __init__(self, *args: Any, environments: Any, backup: Backup, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["environment"].queryset = environments  # type: ignore[attr-defined]
        self.fields["environment"].initial = backup.environment_id


class DropForm(forms.Form):
    typed_name = forms.CharField(label=_("Type the database's name"), max_length=63)

    def __init__(self, *args: Any, name: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.name = name

    def clean_typed_name(self) -> str:
        typed = self.cleaned_data["typed_name"].strip()
        if typed != self.name:
            raise forms.ValidationError(_("This is not its name."))
        return str(typed)
