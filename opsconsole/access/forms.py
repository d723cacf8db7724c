"""Forms of people, their roles and their preferences."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib.auth.forms import UsernameField
from django.utils.translation import gettext_lazy as _

from opsconsole.access.choices import Role
from opsconsole.access.models import Membership, User
from opsconsole.access.permissions import reach_of
from opsconsole.clock import time_zones


class PersonForm(forms.ModelForm):
    """A new person, with one role everywhere. They set their password themselves, by a link."""

    role = forms.ChoiceField(label=_("Role"), choices=Role.choices)

    class Meta:
        model = User
        fields = ["username", "email"]
        field_classes = {"username": UsernameField}
        labels = {"username": _("Username"), "email": _("Email address (optional)")}


class MembershipForm(forms.ModelForm):
    """A role at one of the places that `actor` administers."""

    class Meta:
        model = Membership
        fields = ["user", "role", "application", "environment"]
        labels = {
            "user": _("User"),
            "role": _("Role"),
            "application": _("Application"),
            "environment": _("Environment"),
        }

    def __init__(self, *args: Any, actor: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        reach = reach_of(actor, "settings.edit")
        fields: dict[str, Any] = self.fields
        applications, environments = fields["application"], fields["environment"]
        applications.queryset = applications.queryset.filter(
            reach.on_applications("pk"), archived_at=None
        )
        environments.queryset = (
            environments.queryset.filter(
                reach.among("pk", "application"),
                archived_at=None,
                application__archived_at=None,
            )
            .select_related("application")
            .order_by("application__name", "position")
        )

    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        if given.get("application") and given.get("environment"):
            self.add_error("environment", _("Choose an application or an environment, not both."))
        same = Membership.objects.filter(
            user=given.get("user"),
            role=given.get("role", ""),
            application=given.get("application"),
            environment=given.get("environment"),
        )
        if same.exists():
            raise forms.ValidationError(_("This person already has that role there."))
        return given


class PreferencesForm(forms.ModelForm):
    time_zone = forms.ChoiceField(
        label=_("Time zone"),
        choices=lambda: [(name, name) for name in time_zones()],
    )

    class Meta:
        model = User
        fields = ["theme", "time_zone"]
