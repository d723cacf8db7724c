"""Forms of migrations: confirm a plan, settle what is wrong, waive, and the settings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django import forms
from django.utils.html import format_html
from django.utils.translation import gettext as translated
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from migrations_app.assess.lint import RULES, Level
from migrations_app.engines import ENGINES
from migrations_app.models import LintLevel, Repository
from migrations_app.services.migrations import CHECKLIST
from migrations_app.sources.discovery import (
    FoundFolder,
    is_folder,
    project_name,
    usual_folders,
)
from migrations_app.sources.git import check_ref, check_url, host_of
from opsconsole.environments.forms import short_name
from opsconsole.environments.migration_status import MigrationStatus
from opsconsole.environments.models import Application, Draft, Environment
from opsconsole.exceptions import AdapterError
from opsconsole.web.forms import KeyedForm, ReasonedForm, WithAdvanced

LARGEST_PID = 2**31 - 1


class MigrateForm(ReasonedForm, KeyedForm):
    """The confirmation of a plan: its hash, and each line of the checklist with a note."""

    plan = forms.CharField(required=False, widget=forms.HiddenInput)
    typed_name = forms.CharField(
        required=False,
        max_length=50,
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )

    def __init__(self, *args: Any, environment: Environment, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.environment = environment
        self.fields["typed_name"].label = _("Type %(name)s to confirm") % {"name": environment.slug}
        for key, text in CHECKLIST:
            self.fields[f"check-{key}"] = forms.BooleanField(label=text, required=False)
            self.fields[f"note-{key}"] = forms.CharField(label=text, required=False, max_length=300)
        # As they are on the page.
        lines = [f"{part}-{key}" for key, _text in CHECKLIST for part in ("check", "note")]
        self.order_fields([*lines, "reason", "typed_name"])

    def ask(self, open_lines: Iterable[str]) -> None:
        """Say at each field what a protected environment still wants; `open_lines` are the keys of
        the checklist's lines that a person has to answer."""
        given = self.cleaned_data
        for key in open_lines:
            if not given[f"check-{key}"]:
                self.add_error(f"check-{key}", _("Tick it once it is so."))
            elif not given[f"note-{key}"].strip():
                self.add_error(f"note-{key}", _("Say how you know."))
        if given["typed_name"].strip() != self.environment.slug:
            self.add_error(
                "typed_name",
                forms.ValidationError(
                    _("Type %(name)s, the environment's short name."),
                    params={"name": self.environment.slug},
                ),
            )

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


def _secret_field() -> forms.CharField:
    return forms.CharField(
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


class RepositoryForm(forms.ModelForm):
    """A repository, what opens it (write-only), and what each environment follows."""

    secret = _secret_field()
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
        if self.new_secret is None and self._leads_elsewhere(cleaned.get("url", "")):
            self.add_error(
                "secret",
                _("The address leads to another host: give its token or key, or read it without."),
            )
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

    def _leads_elsewhere(self, url: str) -> bool:
        """Whether what is sealed was given for another host, which must not be sent it."""
        stored = Repository.objects.filter(pk=self.instance.pk).first()
        if stored is None or not stored.secret_encrypted or not url:
            return False
        return host_of(url) != host_of(stored.url)

    @property
    def new_secret(self) -> str | None:
        """The new secret, "" for none any more, None for no change."""
        if self.cleaned_data.get("drops_secret"):
            return ""
        return self.cleaned_data.get("secret") or None


class SourceForm(WithAdvanced, forms.Form):
    """Where the migrations of an application that is to be added are: what its draft keeps."""

    source = forms.CharField(
        label=_("Repository or folder"),
        max_length=500,
        widget=forms.TextInput(attrs={"spellcheck": "false", "autocapitalize": "off"}),
        help_text=_(
            "https://host/team/shop.git or git@host:team/shop.git; or a folder on the workers. "
            "The migrations are looked for in it."
        ),
    )
    secret = _secret_field()
    ref = forms.CharField(
        label=_("Branch or tag"),
        required=False,
        max_length=255,
        help_text=_("Empty: the repository's own branch."),
    )
    advanced = frozenset({"secret", "ref"})

    def __init__(self, data: Any = None, *, draft: Draft) -> None:
        super().__init__(data)
        self.draft = draft
        if "secret" in draft.sealed:
            self.fields["secret"].help_text = _(
                "Kept encrypted since it was tried. Empty keeps it, as long as the address stays."
            )

    def clean_source(self) -> str:
        source: str = self.cleaned_data["source"]
        return source if is_folder(source) else _checked(check_url, source)

    def clean_ref(self) -> str:
        ref: str = self.cleaned_data["ref"]
        return _checked(check_ref, ref) if ref else ""

    def advanced_is_wrong(self) -> bool:
        """A repository that was not let in needs its token: the field is open."""
        return super().advanced_is_wrong() or bool(self.draft.error)

    @property
    def typed(self) -> dict[str, str]:
        """What a draft keeps of it."""
        return {name: self.cleaned_data[name] for name in ("source", "ref")}

    @property
    def secrets(self) -> dict[str, str | None]:
        """A secret is only for the address that it was given for."""
        is_same = self.draft.given.get("source") == self.cleaned_data["source"]
        return {"secret": self.cleaned_data["secret"] or (None if is_same else "")}


class NewApplicationForm(WithAdvanced, forms.ModelForm):
    """An application whose migrations were found: which of the folders, and its name."""

    folder = forms.ChoiceField(label=_("Migrations"), widget=forms.RadioSelect)

    class Meta:
        model = Application
        fields = ["name", "slug"]

    field_order = ["folder", "name", "slug"]
    advanced = frozenset({"slug"})

    def __init__(self, data: Any = None, *, draft: Draft) -> None:
        super().__init__(data)
        self.found = [FoundFolder(**each) for each in draft.found.get("folders", [])]
        self.is_guess = not self.found
        if self.is_guess:
            self.found = usual_folders(draft.given.get("source", ""))
        choices: Any = self.fields["folder"]
        choices.choices = [(str(n), _described(each)) for n, each in enumerate(self.found)]
        if not self.is_guess:
            self.initial["folder"] = "0"
        self.initial["name"] = project_name(draft.given.get("source", ""))
        self.fields["slug"].required = False
        self.fields["slug"].help_text = _("In addresses of pages. Empty: made of the name.")

    def clean_slug(self) -> str:
        slug = short_name(self.cleaned_data["slug"], self.cleaned_data.get("name", ""))
        if Application.objects.filter(slug=slug).exists():
            raise forms.ValidationError(
                _("There is, or was, an application with the short name %(slug)s: give another."),
                params={"slug": slug},
            )
        return slug

    @property
    def chosen(self) -> FoundFolder:
        return self.found[int(self.cleaned_data["folder"])]


def _described(found: FoundFolder) -> str:
    tool = f"{translated(ENGINES[found.engine].label)} {found.tool_version}".strip()
    if not found.migrations:
        return translated("%(folder)s: %(tool)s, nothing there yet") % {
            "folder": found.folder,
            "tool": tool,
        }
    return ngettext(
        "%(folder)s: %(tool)s, %(n)d migration",
        "%(folder)s: %(tool)s, %(n)d migrations",
        found.migrations,
    ) % {"folder": found.folder, "tool": tool, "n": found.migrations}


def _checked(check: Any, text: str) -> str:
    try:
        check(text)
    except AdapterError as error:
        raise forms.ValidationError(str(error)) from None
    return text
