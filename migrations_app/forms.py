"""Forms of the migrations' settings."""

from __future__ import annotations

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from migrations_app.models import Repository
from migrations_app.sources.git import check_ref, check_url
from opsconsole.environments.models import Application
from opsconsole.exceptions import AdapterError


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
            "url": _("https://host/team/shop.git, git@host:team/shop.git, or file:// under an "
                     "allowed folder of the workers."),
            "ref": _("What the environments follow, unless one follows another below."),
            "folder": _("Where the migrations are, from the repository's root."),
        }  # fmt: skip

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
