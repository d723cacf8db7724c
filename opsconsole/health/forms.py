"""Forms of health checks."""

from __future__ import annotations

from itertools import chain, count
from typing import Any

import pglast
from django import forms
from django.utils.translation import gettext_lazy as _

from opsconsole.environments.models import Environment
from opsconsole.exceptions import AdapterError
from opsconsole.health.models import LONGEST_CHECK_SECONDS, HealthCheck
from opsconsole.targets.parser import parse_sql
from opsconsole.url import split_url
from opsconsole.web.forms import WithAdvanced


class HealthCheckForm(WithAdvanced, forms.ModelForm):
    class Meta:
        model = HealthCheck
        fields = ["kind", "address", "name", "timeout_seconds", "is_enabled"]

    advanced = frozenset({"name", "timeout_seconds", "is_enabled"})

    def __init__(self, *args: Any, environment: Environment, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.instance.environment = environment
        self.fields["name"].required = False
        self.fields["name"].help_text = _("Empty: made of the address.")

    def clean_name(self) -> str:
        """The name that was given, or one of the address that no other check has."""
        if self.cleaned_data["name"]:
            return str(self.cleaned_data["name"])
        is_http = self.cleaned_data.get("kind") == HealthCheck.Kind.HTTP
        made = _name_of(self.cleaned_data.get("address", "")) if is_http else "query"
        others = HealthCheck.objects.filter(environment=self.instance.environment)
        taken = set(others.exclude(pk=self.instance.pk).values_list("name", flat=True))
        numbered = (f"{made} {n}" for n in count(2))
        return next(name for name in chain([made], numbered) if name not in taken)

    def clean_timeout_seconds(self) -> int:
        seconds: int = self.cleaned_data["timeout_seconds"]
        if not 1 <= seconds <= LONGEST_CHECK_SECONDS:
            raise forms.ValidationError(
                _("Give 1 to %(most)s seconds."), params={"most": LONGEST_CHECK_SECONDS}
            )
        return seconds

    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        address = given.get("address", "")
        if given.get("kind") == HealthCheck.Kind.HTTP:
            try:
                parts = split_url(address)
            except AdapterError as error:
                self.add_error("address", str(error))
            else:
                if parts.scheme not in {"http", "https"} or not parts.hostname:
                    self.add_error("address", _("Give an http:// or https:// address."))
        if given.get("kind") == HealthCheck.Kind.SQL and _statements(address) > 1:
            self.add_error("address", _("Give one statement."))
        twins = HealthCheck.objects.filter(
            environment=self.instance.environment, name=given.get("name", "")
        ).exclude(pk=self.instance.pk)
        if twins.exists():
            self.add_error("name", _("This environment already has a check of that name."))
        return given


def _name_of(address: str) -> str:
    """The last part of an address's path, such as "health"; "health" for what has none."""
    try:
        path = split_url(address).path
    except AdapterError:
        path = ""
    return path.rstrip("/").rpartition("/")[2][:40] or "health"


def _statements(query: str) -> int:
    """How many statements it is made of; 0 for what only the server can tell."""
    try:
        return len(parse_sql(query))
    except (pglast.Error, ValueError):
        return 0
