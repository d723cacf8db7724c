"""Forms of migrations: confirm a plan, settle what is wrong, waive, and the settings."""

from __future__ import annotations

from typing import Any

from django import forms
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from migrations_app.assess.lint import RULES, Level
from migrations_app.models import LintLevel, Repository
from migrations_app.services.migrations import CHECKLIST
from migrations_app.sources.git import check_ref, check_url
from opsconsole.environments.migration_status import MigrationStatus
from opsconsole.environments.models import Application
from opsconsole.exceptions import AdapterError
from opsconsole.web.forms import KeyedForm, ReasonedForm

LARGEST_PID = 2**31 - 1


class MigrateForm(ReasonedForm, KeyedForm):
    """The confirmation of a plan: its hash, and each line of the checklist with a note."""

    plan = forms.CharField(required=False, widget=forms.HiddenInput)
    typed_name = forms.CharField(required=False, max_length=50)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for key, text in CHECKLIST:
            self.fields[f"check-{key}"] = forms.BooleanField(label=text, required=False)
            self.fields[f"note-{key}"] = forms.CharField(required=False, max_length=300)

    def line(self, key: str) -> dict[str, forms.BoundField]:
        """Tick and note of a line of the checklist."""
        return {"tick": self[f"check-{key}"], "note": self[f"note-{key}"]}

    @property
    def ticked(self) -> dict[str, str]:
        """The note of each line that was ticked, by its key."""
        given = self.cleaned_data
        return {key: given[f"note-{key}"] for key, _text in CHECKLIST if given[f"check-{key}"]}


class AcknowledgeForm(ReasonedForm):
    """`schema` is the hash of the one that was shown."""

    schema = forms.CharField(required=False, widget=forms.HiddenInput)


class AdoptForm(AcknowledgeForm, KeyedForm):
    title = forms.CharField(label=_("Name of the migration, to adopt it"), max_length=61)


class EndSessionForm(ReasonedForm, KeyedForm):
    pid = forms.IntegerField(
        min_value=1,
        max_value=LARGEST_PID,
        widget=forms.HiddenInput,
        error_messages=dict.fromkeys(
            ("required", "invalid", "min_value", "max_value"),
            _("Which session is not known. Open the page again."),
        ),
    )


class ResolveForm(ReasonedForm, KeyedForm):
    mark = forms.ChoiceField(
        label=_("Way out"),
        choices=[
            ("rolled_back", _("Mark rolled back")),
            ("applied", _("Mark applied")),
            ("finish", _("Finish the rest")),
        ],
    )
    field_order = ["mark", "reason"]


class WaiveForm(ReasonedForm):
    rule = forms.ChoiceField(
        label=_("Waive the findings of"),
        choices=[(rule, rule) for rule in RULES],
        # They are keys, the same in every language.
        widget=forms.Select(attrs={"translate": "no"}),
    )
    field_order = ["rule", "reason"]


class LevelsForm(forms.Form):
    """What findings of each rule do; a rule that is not given stays as it is."""

    def __init__(self, *args: Any, levels: dict[str, Level], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for rule, level in levels.items():
            self.fields[f"rule-{rule}"] = forms.ChoiceField(
                label=format_html('<span class="mono">{}</span>', rule),
                required=False,
                initial=level,
                choices=LintLevel.Level.choices,
            )

    @property
    def levels(self) -> dict[str, str]:
        given = self.cleaned_data.items()
        return {name.removeprefix("rule-"): str(level) for name, level in given if level}


class BoardFilterForm(forms.Form):
    """Part of a migration's name, and the state that it has in any environment."""

    q = forms.CharField(required=False, max_length=200)
    state = forms.ChoiceField(
        required=False,
        choices=[("", _("any")), *((status.value, status.word) for status in MigrationStatus)],
    )


class SecretArea(forms.Textarea):
    """Several lines that a page never shows again, not even in a refused form."""

    def format_value(self, value: Any) -> str:
        return ""


class RepositoryForm(forms.ModelForm):
    """A repository, what opens it (write-only), and what each environment follows."""

    secret = forms.CharField(
        label=_("Token or deploy key"),
        required=False,
        strip=True,
        max_length=10_000,
        widget=SecretArea(attrs={"rows": 3, "autocomplete": "off", "spellcheck": "false"}),
        help_text=_(
            "An access token for https://, or the private half of a deploy key for ssh:// (kept "
            "encrypted, never shown again). Empty keeps the present one."
        ),
    )
    drops_secret = forms.BooleanField(label=_("Read it without a token or key"), required=False)

    class Meta:
        model = Repository
        fields = ["url", "ref", "folder"]
        help_texts = {
            "url": _(
                "https://host/team/shop.git, git@host:team/shop.git, or file:// under an "
                "allowed folder of the workers."
            ),
            "ref": _("What the environments follow, unless one follows another below."),
            "folder": _("Where the migrations are, from the repository's root."),
        }

    def __init__(self, *args: Any, application: Application, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.instance.application = application
        if not self.instance.secret_encrypted:
            del self.fields["drops_secret"]
        self.environments = list(application.environments.filter(archived_at=None))
        for environment in self.environments:
            self.fields[f"ref_{environment.pk}"] = forms.CharField(
                label=_("%(where)s follows") % {"where": environment.name},
                required=False,
                max_length=255,
                initial=self.instance.refs.get(str(environment.pk), ""),
                help_text=_("A branch, tag or commit; empty for the one above."),
            )

    def clean_url(self) -> str:
        return _checked(check_url, self.cleaned_data["url"])

    def clean_ref(self) -> str:
        return _checked(check_ref, self.cleaned_data["ref"])

    def clean_folder(self) -> str:
        folder: str = self.cleaned_data["folder"].strip("/")
        if ".." in folder.split("/"):
            raise forms.ValidationError(_("Give a folder inside the repository."))
        return folder

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        self.instance.refs = {}
        for environment in self.environments:
            name = f"ref_{environment.pk}"
            ref = cleaned.get(name)
            if not ref:
                continue
            try:
                check_ref(ref)
            except AdapterError as error:
                self.add_error(name, str(error))
            self.instance.refs[str(environment.pk)] = ref
        return cleaned

    @property
    def new_secret(self) -> str | None:
        """The new secret, "" for none any more, None for no change."""
        if self.cleaned_data.get("drops_secret"):
            return ""
        return self.cleaned_data["secret"] or None


def _checked(check: Any, text: str) -> str:
    try:
        check(text)
    except AdapterError as error:
        raise forms.ValidationError(str(error)) from None
    return text
