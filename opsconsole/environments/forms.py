"""Forms of the settings pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from django import forms
from django.conf import settings
from django.utils.translation import gettext_lazy as _

from opsconsole.environments.choices import AutoRollback
from opsconsole.environments.engines import ENGINES
from opsconsole.environments.models import Application, Environment, Target
from opsconsole.environments.secrets import check_reference, is_reference
from opsconsole.environments.visibility import visible_environments
from opsconsole.exceptions import AdapterError
from opsconsole.targets.dsn import Dsn

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise


class ApplicationForm(forms.ModelForm):
    engine = forms.ChoiceField(label=_("Migration engine"), choices=lambda: ENGINES)

    class Meta:
        model = Application
        fields = ["name", "slug", "engine"]


# Left empty, they stay as they are.
WAITS = (
    "lock_timeout_seconds",
    "lock_patience_seconds",
    "blocking_limit_seconds",
    "statement_timeout_seconds",
)


def _address_field(label: _StrOrPromise, help_text: _StrOrPromise) -> forms.CharField:
    """An address as it is typed once: never shown again, and empty for no change."""
    return forms.CharField(
        label=label,
        required=False,
        strip=True,
        max_length=1000,
        widget=forms.PasswordInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
        help_text=help_text,
    )


class EnvironmentForm(forms.ModelForm):
    """An environment and where its database is. The address is write-only."""

    address = _address_field(
        _("Database address"),
        _(
            "postgresql://user:password@host:5432/name (kept encrypted, never shown again), or "
            "env:NAME or file:PATH on the workers. Empty keeps the present one."
        ),
    )
    scratch_address = _address_field(
        _("Scratch server"),
        _(
            "Where backups are restored to prove them, as an address like the one above. Empty: "
            "beside the database itself, or the one that is set."
        ),
    )
    drops_scratch_address = forms.BooleanField(
        label=_("Prove backups beside the database itself again"), required=False
    )
    quarantine_address = _address_field(
        _("Quarantine"),
        _(
            "Where archives made elsewhere are restored first: restoring runs the code in them. An "
            "address like the ones above, of a role that may create databases and touch nothing "
            "else, best on a server of its own. Without one they are stored, and not restored."
        ),
    )
    drops_quarantine_address = forms.BooleanField(
        label=_("Restore no archive made elsewhere any more"), required=False
    )

    class Meta:
        model = Environment
        fields = [
            "name", "slug", "position", "migrations_folder", "is_protected",
            "backup_before_migrate", "auto_rollback", "settle_seconds", "queue",
            "lock_timeout_seconds", "lock_patience_seconds", "blocking_limit_seconds",
            "statement_timeout_seconds",
        ]  # fmt: skip

    def __init__(self, data: Any, *, target: Target, application: Application) -> None:
        super().__init__(data, instance=target.environment)
        self.application = application
        self.instance.application = application
        for name in WAITS:
            self.fields[name].required = False
        if not target.scratch_dsn_encrypted:
            del self.fields["drops_scratch_address"]
        if not target.quarantine_dsn_encrypted:
            del self.fields["drops_quarantine_address"]
        if self.instance.pk is None:
            self.initial["backup_before_migrate"] = settings.MIGRATION_BACKUP_ENABLED
            if not settings.MIGRATION_ROLLBACK_ENABLED:
                self.initial["auto_rollback"] = AutoRollback.NEVER

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        for name in WAITS:
            if cleaned.get(name) is None and name not in self.errors:
                cleaned[name] = getattr(self.instance, name)
        longest, one_wait = cleaned.get("blocking_limit_seconds"), cleaned.get(WAITS[0])
        if longest and one_wait and longest < one_wait:
            self.add_error(
                "blocking_limit_seconds",
                _("Must be at least as long as the lock wait above."),
            )
        return cleaned

    def clean_address(self) -> str:
        address = self.cleaned_data["address"]
        if not address and self.instance.pk is None:
            raise forms.ValidationError(_("Say where the database is."))
        return _checked_address(address)

    def clean_scratch_address(self) -> str:
        return _checked_address(self.cleaned_data["scratch_address"])

    def clean_quarantine_address(self) -> str:
        return _checked_address(self.cleaned_data["quarantine_address"])

    def new_address(self, which: Literal["scratch", "quarantine"]) -> str | None:
        """That new address, "" for none any more, None for no change."""
        if self.cleaned_data.get(f"drops_{which}_address"):
            return ""
        return self.cleaned_data[f"{which}_address"] or None

    def clean_slug(self) -> str:
        slug = self.cleaned_data["slug"]
        taken = Environment.objects.filter(application=self.application, slug=slug)
        if taken.exclude(pk=self.instance.pk).exists():
            raise forms.ValidationError(_("This application already has such an environment."))
        return str(slug)


class EnvironmentFilterForm(forms.Form):
    """A list of what is in the environments that the user sees, or in one of them."""

    environment = forms.ModelChoiceField(
        Environment.objects.none(), label=_("Environment"), required=False, empty_label=_("All")
    )

    def __init__(self, *args: Any, user: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["environment"].queryset = visible_environments(user)  # type: ignore[attr-defined]


def _checked_address(address: str) -> str:
    """Return the address; raises ValidationError when it can be none, without repeating it."""
    if address:
        check = check_reference if is_reference(address) else Dsn.parse
        try:
            check(address)
        except AdapterError as error:
            raise forms.ValidationError(str(error)) from None
    return address
