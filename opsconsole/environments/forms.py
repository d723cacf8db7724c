"""Forms of the settings pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from django import forms
from django.conf import settings
from django.forms.models import ModelChoiceIterator
from django.utils.text import slugify
from django.utils.translation import gettext_lazy as _

from opsconsole.environments.choices import AutoRollback
from opsconsole.environments.engines import ENGINES
from opsconsole.environments.models import Application, Draft, Environment, Target
from opsconsole.environments.secrets import check_reference, is_reference
from opsconsole.environments.visibility import visible_environments
from opsconsole.exceptions import AdapterError
from opsconsole.targets.dsn import Dsn
from opsconsole.web.forms import WithAdvanced
from opsconsole.web.widgets import FilterSelect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.utils.functional import _StrOrPromise


class ApplicationForm(forms.ModelForm):
    engine = forms.ChoiceField(label=_("Migration engine"), choices=lambda: ENGINES)

    class Meta:
        model = Application
        fields = ["name", "slug", "engine", "migrations_folder"]


def short_name(given: str, name: str) -> str:
    """The short name that was given, or one made of the name. Raises ValidationError for neither."""
    made = given or slugify(name)[:50]
    if not made:
        raise forms.ValidationError(_("Give a short name: none can be made of this name."))
    return made


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


ADDRESSES = ("address", "scratch_address", "quarantine_address")


class EnvironmentForm(WithAdvanced, forms.ModelForm):
    """An environment and where its database is. The addresses are write-only."""

    address = _address_field(
        _("Database address"),
        _(
            "postgresql://user:password@host:5432/name (kept encrypted, never shown again), or "
            "env:NAME or file:PATH on the workers."
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
            "name", "is_protected", "backup_before_migrate", "auto_rollback", "slug", "position",
            "migrations_folder", "settle_seconds", "queue", "lock_timeout_seconds",
            "lock_patience_seconds", "blocking_limit_seconds", "statement_timeout_seconds",
        ]  # fmt: skip

    field_order = ["name", "address", "is_protected", "backup_before_migrate", "auto_rollback"]
    advanced = frozenset(
        {
            "slug", "position", "migrations_folder", "settle_seconds", "queue", *WAITS,
            "scratch_address", "drops_scratch_address", "quarantine_address",
            "drops_quarantine_address",
        }
    )  # fmt: skip

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
        if self.instance.pk:
            self.fields["address"].help_text = _("%(help)s Empty keeps the present one.") % {
                "help": self.fields["address"].help_text
            }

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
        return _checked_address(self.cleaned_data["address"])

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
        slug = str(self.cleaned_data["slug"])
        taken = Environment.objects.filter(application=self.application, slug=slug)
        if taken.exclude(pk=self.instance.pk).exists():
            # A short name that nobody typed was made of the name.
            typed = "slug" if self.data.get("slug") else "name"
            self.add_error(typed, _("This application already has such an environment."))
        return slug


class NewEnvironmentForm(EnvironmentForm):
    """An environment that is to be added, as a draft keeps it: only its address has to be given."""

    BY_NAME, YES, NO = "by_name", "yes", "no"
    SUGGESTED = (_("Staging"), _("Production"), _("Development"))

    protection = forms.ChoiceField(
        label=_("Protected"),
        choices=[
            (BY_NAME, _("When its name says production")),
            (YES, _("Yes: ask for the checklist and the typed name, and never skip the backup")),
            (NO, _("No")),
        ],
        initial=BY_NAME,
        required=False,
    )

    class Meta(EnvironmentForm.Meta):
        fields = [name for name in EnvironmentForm.Meta.fields if name != "is_protected"]

    field_order = ["address", "name", "protection"]
    advanced = EnvironmentForm.advanced | {
        "protection", "backup_before_migrate", "auto_rollback"
    }  # fmt: skip

    def __init__(self, data: Any, *, draft: Draft) -> None:
        application = draft.application
        assert application is not None
        others = list(application.environments.filter(archived_at=None))
        environment = Environment(application=application, position=len(others) + 1)
        super().__init__(data, target=Target(environment=environment), application=application)
        self.draft = draft
        self.fields["slug"].required = False
        self.fields["slug"].help_text = _("In addresses of pages. Empty: made of the name.")
        names = {other.name for other in others}
        free = (str(name) for name in self.SUGGESTED if str(name) not in names)
        self.initial["name"] = next(free, "")
        self.initial["backup_before_migrate"] = settings.MIGRATION_BACKUP_ENABLED
        if not settings.MIGRATION_ROLLBACK_ENABLED:
            self.initial["auto_rollback"] = AutoRollback.NEVER
        for name in ADDRESSES:
            self.fields[name].help_text = self._help_of(name)

    def _help_of(self, name: str) -> _StrOrPromise:
        if name in self.draft.sealed:
            return _("Kept encrypted since it was typed. Empty keeps it.")
        if reference := self._reference(name):
            return _("Now %(reference)s. Empty keeps it.") % {"reference": reference}
        return self.base_fields[name].help_text

    def _reference(self, name: str) -> str:
        """The one that the draft keeps: a page does not repeat what was typed as an address."""
        kept = str(self.draft.given.get(name, ""))
        return kept if is_reference(kept) else ""

    def clean_address(self) -> str:
        address = super().clean_address() or self._reference("address")
        if not address and "address" not in self.draft.sealed:
            raise forms.ValidationError(_("Say where the database is."))
        return address

    def clean_scratch_address(self) -> str:
        return super().clean_scratch_address() or self._reference("scratch_address")

    def clean_quarantine_address(self) -> str:
        return super().clean_quarantine_address() or self._reference("quarantine_address")

    def clean_slug(self) -> str:
        if "name" in self.errors:
            return ""
        self.cleaned_data["slug"] = short_name(
            self.cleaned_data["slug"], self.cleaned_data.get("name", "")
        )
        return super().clean_slug()

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        said, name = cleaned.get("protection"), cleaned.get("name", "")
        self.instance.is_protected = said == self.YES or (said != self.NO and says_production(name))
        return cleaned

    @property
    def typed(self) -> dict[str, str | bool]:
        """What a draft keeps: what was typed and is not wrong, without what is secret, and, where
        nothing is wrong, whether it is protected."""
        kept = self.fields.keys() & self.data.keys() - self.errors.keys() - set(ADDRESSES)
        given = {name: str(self.data[name]) for name in kept}
        addresses = {name: str(self.cleaned_data.get(name, "")) for name in ADDRESSES}
        references = {name: text for name, text in addresses.items() if is_reference(text)}
        judged = {} if self.errors else {"is_protected": self.instance.is_protected}
        return given | references | judged

    @property
    def has_typed_an_address(self) -> bool:
        """One that a page would not show again."""
        return any(
            str(self.data.get(name, "")).strip() and name not in self.errors for name in ADDRESSES
        )

    @property
    def secrets(self) -> dict[str, str | None]:
        """The addresses that were typed; None for one that stays, "" for one that a reference replaces."""
        given = {name: str(self.cleaned_data.get(name, "")) for name in ADDRESSES}
        return {name: "" if is_reference(text) else text or None for name, text in given.items()}


def says_production(name: str) -> bool:
    """Whether a name says that real users are on it: "Production", "prod-eu", "Live"."""
    words = slugify(name).replace("_", "-").split("-")
    return any(word in {"live", "prd"} or word.startswith("prod") for word in words)


class _ReadAtOnce(ModelChoiceIterator):
    """A few rows: a cursor of the server's for them takes four round trips instead of one."""

    def __iter__(self) -> Iterator[tuple[Any, str]]:
        yield "", str(self.field.empty_label)
        yield from map(self.choice, self.queryset.all())


class _EnvironmentField(forms.ModelChoiceField):
    iterator = _ReadAtOnce


class EnvironmentFilterForm(forms.Form):
    """A list of what is in the environments that the user sees, or in one of them."""

    environment = _EnvironmentField(
        Environment.objects.none(),
        label=_("Environment"),
        required=False,
        empty_label=_("All"),
        widget=FilterSelect,
    )

    def __init__(self, *args: Any, user: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        seen = visible_environments(user).only("name", "application__name")
        self.fields["environment"].queryset = seen  # type: ignore[attr-defined]


def _checked_address(address: str) -> str:
    """Return the address; raises ValidationError when it can be none, without repeating it."""
    if address:
        check = check_reference if is_reference(address) else Dsn.parse
        try:
            check(address)
        except AdapterError as error:
            raise forms.ValidationError(str(error)) from None
    return address
