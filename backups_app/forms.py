"""Forms of backups: back up, prove, restore, undo, drop, hold, policy and storage."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from django import forms
from django.db.models import QuerySet
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from backups_app import schedules
from backups_app.archives.encryption import parse_recipients
from backups_app.choices import ProofLevel
from backups_app.exceptions import BadKey
from backups_app.models import Backup, BackupPolicy, Storage
from backups_app.stores.kinds import Credentials, canonical_key
from backups_app.stores.opening import open_store
from opsconsole.clock import time_zones
from opsconsole.environments.models import Application, Target, TargetQuerySet
from opsconsole.environments.visibility import visible_targets
from opsconsole.exceptions import AdapterError
from opsconsole.web.forms import KeyedForm, ReasonedForm, SizeField

LEVELS = tuple(level for level in ProofLevel if level >= 0)


class BackUpForm(ReasonedForm, KeyedForm):
    """Why a backup is taken now."""


class ProveForm(KeyedForm):
    """How far a backup is proven again; all the way, if it is not said."""

    level = forms.ChoiceField(
        label=_("How far"),
        required=False,
        choices=[(level.value, level.label) for level in LEVELS],
    )

    def clean_level(self) -> ProofLevel:
        level = self.cleaned_data["level"]
        return ProofLevel(int(level)) if level else ProofLevel.CONTENT


class ExchangeForm(KeyedForm):
    """Starts an exchange of databases. `behind` is what is known to stay behind in one, `names` are
    the short names of the environments that it may be of: one of them is typed."""

    consents = forms.MultipleChoiceField(
        label=_("May stay behind"),
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text=_(
            "It belongs to the live database, and cannot be carried over. Without your consent "
            "nothing is exchanged."
        ),
    )

    def __init__(self, *args: Any, behind: list[str], names: list[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        typed = self.fields["typed_name"]
        if len(names) == 1:
            typed.label = _("Type %(name)s to confirm") % {"name": names[0]}
        else:
            typed.label = _("Type the environment's short name to confirm")
            typed.help_text = f"{', '.join(names)}. {typed.help_text}"
        self.fields["consents"].choices = [  # type: ignore[attr-defined]
            (what, format_html('<span lang="en">{}</span>', what)) for what in behind
        ]
        if not behind:
            del self.fields["consents"]


class WayBackForm(ReasonedForm, ExchangeForm):
    """The way back of a run that needs a decision; a protected environment's name is typed."""

    typed_name = forms.CharField(max_length=50, required=False)


class CheckForm(forms.Form):
    """The environment that a worker looks at before a restore into it."""

    environment = forms.ModelChoiceField(
        Target.objects.none(),
        label=_("Restore into"),
        empty_label=None,
        to_field_name="environment",
    )

    def __init__(self, *args: Any, user: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["environment"]
        field.queryset = visible_targets(user)  # type: ignore[attr-defined]
        field.label_from_instance = lambda target: str(target.environment)  # type: ignore[attr-defined]


class RestoreForm(ExchangeForm):
    """Where a backup goes, why, and the typed name of what it replaces."""

    REPLACE, BESIDE = "replace", "beside"

    environment = forms.ModelChoiceField(
        Target.objects.none(),
        label=_("Restore into"),
        empty_label=None,
        # The page names environments.
        to_field_name="environment",
    )
    how = forms.ChoiceField(
        label=_("How"),
        widget=forms.RadioSelect,
        choices=[
            (BESIDE, _("As a new database beside the live one. Nothing is replaced.")),
            (REPLACE, _("Replace the live database. It is kept, closed, until it is dropped.")),
        ],
        error_messages={"required": _("Say whether the live database is replaced.")},
    )
    new_database = forms.CharField(
        label=_("Name of the new database"),
        max_length=63,
        required=False,
        help_text=_("On the same server. Not used where the live database is replaced."),
    )
    backs_up_first = forms.BooleanField(
        label=_("Back the live database up first, and prove that backup"),
        required=False,
        help_text=_(
            "Takes as long as any backup. The replaced database is kept either way, until it is "
            "dropped; a backup outlives that."
        ),
    )
    consents_unmasked = forms.BooleanField(
        label=_("Data of a protected environment goes elsewhere as it is, unmasked"),
        required=False,
        help_text=_("Only an admin can consent, and only where no masking script is set."),
    )
    trusts_source = forms.BooleanField(
        label=_("I trust where this archive comes from"),
        required=False,
        help_text=_(
            "It was made elsewhere. Restoring it runs the code in it (functions, triggers, views) "
            "with the rights of the environment's role, on its server."
        ),
    )
    reason = forms.CharField(label=_("Why"), max_length=500)
    typed_name = forms.CharField(
        max_length=50,
        required=False,
        help_text=_("Only to replace its live database."),
    )

    def __init__(
        self,
        *args: Any,
        targets: TargetQuerySet,
        offered: list[Target],
        backup: Backup,
        **kwargs: Any,
    ) -> None:
        """`targets` may be named; those `offered` will not be refused for a missing right."""
        names = [target.environment.slug for target in offered]
        super().__init__(*args, names=names, **kwargs)
        self.fields["environment"].queryset = targets  # type: ignore[attr-defined]
        self.fields["environment"].choices = [  # type: ignore[attr-defined]
            (t.environment_id, str(t.environment)) for t in offered
        ]
        self.fields["environment"].initial = backup.environment_id
        policy = BackupPolicy.objects.of(backup.environment)
        crosses = any(target.environment_id != backup.environment_id for target in offered)
        if not backup.environment.is_protected or policy.masking_sql.strip() or not crosses:
            del self.fields["consents_unmasked"]
        if not backup.is_imported:
            del self.fields["trusts_source"]

    def clean(self) -> dict[str, Any]:
        given: dict[str, Any] = super().clean() or self.cleaned_data
        if given.get("how") == self.REPLACE:
            given["new_database"] = ""
        elif given.get("how") == self.BESIDE and not given.get("new_database", "").strip():
            self.add_error("new_database", _("Name the new database."))
        return given


class ImportForm(KeyedForm):
    """An archive that was made elsewhere: a file of one's own, or an object in a storage."""

    file = forms.FileField(
        label=_("Archive"),
        required=False,
        help_text=_("pg_dump -Fc, or a packed folder of pg_dump -Fd; also as .zst, .gz or .age."),
    )
    storage = forms.ModelChoiceField(
        Storage.objects.none(), label=_("Or one that lies in"), required=False
    )
    path = forms.CharField(
        label=_("Its path there"),
        max_length=300,
        required=False,
        help_text=_("From the storage's root, such as incoming/shop.dump. It stays there."),
    )
    reason = forms.CharField(label=_("Why"), max_length=500)

    def __init__(self, *args: Any, application: Application, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        offered = Storage.objects.offered_to(application)
        self.fields["storage"].queryset = offered  # type: ignore[attr-defined]

    def clean_path(self) -> str:
        path = str(self.cleaned_data["path"])
        try:
            return canonical_key(path) if path else ""
        except BadKey as error:
            raise forms.ValidationError(str(error)) from None

    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        if "path" in self.errors:
            return given
        has_file, has_path = bool(given.get("file")), bool(given.get("path"))
        if has_file == has_path and "file" not in self.errors:
            self.add_error("file", _("Choose a file, or say where one lies: one of the two."))
        elif has_path and not given.get("storage"):
            self.add_error("storage", _("Say in which storage it lies."))
        return given


class UndoForm(ExchangeForm):
    reason = forms.CharField(label=_("Why"), max_length=500)
    typed_name = forms.CharField(max_length=50)


class DropForm(forms.Form):
    typed_name = forms.CharField(label=_("Type the database's name"), max_length=63)


class HoldForm(forms.Form):
    reason = forms.CharField(label=_("Why"), max_length=500)
    until = forms.DateTimeField(
        label=_("Until"),
        required=False,
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
        help_text=_("In your time zone. Empty: until somebody releases it."),
    )


class StorageForm(forms.ModelForm):
    """A storage. Its secret is write-only."""

    secret = forms.CharField(
        label=_("Secret key"),
        required=False,
        max_length=500,
        widget=forms.PasswordInput(attrs={"autocomplete": "off"}),
        help_text=_("Kept encrypted, never shown again. Empty keeps the present one."),
    )

    class Meta:
        model = Storage
        fields = ["name", "url", "access_key", "is_shared", "applications"]
        labels = {"url": _("URL")}
        widgets = {"applications": forms.CheckboxSelectMultiple}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.is_builtin = self.instance.pk is not None and not self.instance.url
        if self.is_builtin:
            for name in ("url", "access_key", "secret", "is_shared", "applications"):
                del self.fields[name]

    def clean_url(self) -> str:
        url = str(self.cleaned_data["url"])
        try:
            open_store(url, Credentials("key", "c2VjcmV0"))
        except AdapterError as error:
            raise forms.ValidationError(str(error)) from None
        return url


class PolicyForm(forms.ModelForm):
    """How an environment's backups are taken, proven and kept."""

    time_zone = forms.ChoiceField(
        label=_("Time zone of both"),
        choices=lambda: [(name, name) for name in time_zones()],
    )
    maximum_bytes = SizeField(
        label=_("Delete the oldest beyond"),
        required=False,
        max_length=40,
        help_text=_("A size in all, such as 20 GB. Empty: no limit."),
    )
    # The fingerprint of the preview that was shown.
    confirmed = forms.CharField(required=False, widget=forms.HiddenInput)

    class Meta:
        model = BackupPolicy
        fields = [
            "backup_cron", "verify_cron", "time_zone", "verify_level", "assertions", "alarm_hours",
            "masking_sql", "storage", "copies", "format", "level", "jobs", "recipients",
            "keep_days", "keep_last", "keep_daily", "keep_weekly", "keep_monthly", "keep_yearly",
            "pre_migration_days", "manual_days", "before_restore_days",
            "minimum_kept", "maximum_bytes", "grace_days",
        ]  # fmt: skip
        widgets = {
            "recipients": forms.Textarea(attrs={"rows": 3, "spellcheck": "false"}),
            "assertions": forms.Textarea(attrs={"rows": 3, "spellcheck": "false"}),
            "masking_sql": forms.Textarea(attrs={"rows": 4, "spellcheck": "false"}),
            "copies": forms.CheckboxSelectMultiple,
        }

    GROUPS = (
        (_("When"), ("backup_cron", "verify_cron", "time_zone", "alarm_hours")),
        (_("How"), ("format", "level", "jobs", "recipients")),
        (_("Where"), ("storage", "copies", "masking_sql")),
        (_("Proof"), ("verify_level", "assertions")),
        (
            _("What is kept"),
            (
                "keep_days", "keep_last", "keep_daily", "keep_weekly", "keep_monthly",
                "keep_yearly", "pre_migration_days", "manual_days", "before_restore_days",
                "minimum_kept", "maximum_bytes", "grace_days",
            ),
        ),
    )  # fmt: skip

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        application = self.instance.environment.application
        offered: QuerySet[Storage] = Storage.objects.offered_to(application)
        for name in ("storage", "copies"):
            self._choice(name).queryset = offered
        self._choice("storage").empty_label = None
        for name in ("backup_cron", "verify_cron"):
            expression = getattr(self.instance, name)
            said = f"{schedules.in_words(expression)}. " if expression else ""
            self.fields[name].help_text = _(
                "%(said)sCron: minute hour day month weekday, such as 0 3 * * *. Empty: never."
            ) % {"said": said}

    def _choice(self, name: str) -> forms.ModelChoiceField:
        field = self.fields[name]
        assert isinstance(field, forms.ModelChoiceField)
        return field

    @property
    def groups(self) -> list[tuple[str, list[forms.BoundField]]]:
        """The fields under their headings, in order."""
        return [(str(title), [self[name] for name in names]) for title, names in self.GROUPS]

    def _clean_cron(self, name: str) -> str:
        expression = " ".join(self.cleaned_data[name].split())
        if expression:
            try:
                schedules.check(expression)
            except schedules.BadCron as error:
                raise forms.ValidationError(str(error)) from None
        return expression

    def clean_backup_cron(self) -> str:
        return self._clean_cron("backup_cron")

    def clean_verify_cron(self) -> str:
        return self._clean_cron("verify_cron")

    def clean_recipients(self) -> str:
        text = str(self.cleaned_data["recipients"]).strip()
        try:
            parse_recipients(text)
        except AdapterError as error:
            raise forms.ValidationError(str(error)) from None
        return text

    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        if given.get("storage") in (given.get("copies") or ()):
            self.add_error("copies", _("Choose other storages than the first one."))
        return given

    @property
    def fingerprint(self) -> str:
        """What a preview was made of; saving asks for the same."""
        given = self.cleaned_data.items()
        values = {name: str(value) for name, value in given if name != "confirmed"}
        values["copies"] = ",".join(sorted(str(s.pk) for s in self.cleaned_data["copies"]))
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    @property
    def is_confirmed(self) -> bool:
        """Whether the preview of exactly these values was shown."""
        return bool(self.cleaned_data["confirmed"] == self.fingerprint)
