"""Forms: what most of them have in common, and a page that is one form."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from django import forms
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render, resolve_url
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from opsconsole.events.reasons import LONGEST
from opsconsole.events.recording import fields_of
from opsconsole.exceptions import Kind, Refused
from opsconsole.formats import size
from opsconsole.web.errors import is_of_a_part, refused_part, status_of
from opsconsole.web.pages import is_key, new_key

# What a form read, by field.
Given = dict[str, Any]

# Refusals of these kinds are about the person or the address, not about what was typed.
NOT_OF_FORMS = {Kind.FORBIDDEN, Kind.NOT_FOUND}
FORM_PAGE = "opsconsole/form_page.html"


class WithAdvanced:
    """A form whose `advanced` fields are shown closed, until one of them is wrong."""

    advanced: frozenset[str] = frozenset()

    def visible_fields(self) -> list[forms.BoundField]:
        """Those that everybody has to see."""
        return [field for field in super().visible_fields() if field.name not in self.advanced]  # type: ignore[misc]

    def advanced_fields(self) -> list[forms.BoundField]:
        return [field for field in super().visible_fields() if field.name in self.advanced]  # type: ignore[misc]

    def advanced_is_wrong(self) -> bool:
        return any(field.errors for field in self.advanced_fields())


class KeyField(forms.CharField):
    """An idempotency key. What can be none counts as not given, and a fresh one is taken."""

    def __init__(self) -> None:
        super().__init__(required=False, initial=new_key, widget=forms.HiddenInput)

    def bound_data(self, data: Any, initial: Any) -> Any:
        return data if is_key(data) else initial

    def clean(self, value: Any) -> str:
        return str(value) if is_key(value) else new_key()


class SizeField(forms.CharField):
    """A size with its unit, such as 20 GB; cleaned, it is a number of bytes, or None.

    A number alone is refused: whoever thinks of GB would give bytes.
    """

    UNITS = ("B", "kB", "MB", "GB", "TB")
    FORM = re.compile(r"(\d{1,18}(?:\.\d{1,6})?) ?([kmgt]?b)", re.IGNORECASE)

    def prepare_value(self, value: Any) -> Any:
        if not isinstance(value, int):
            return value
        shown = size(value)
        return shown if self._bytes(shown) == value else f"{value} B"

    def clean(self, value: Any) -> int | None:
        text = str(super().clean(value))
        if not text:
            return None
        amount = self._bytes(text)
        if amount is None:
            raise forms.ValidationError(_("Give a size with its unit, such as 20 GB."))
        return amount

    def _bytes(self, text: str) -> int | None:
        found = self.FORM.fullmatch(text.replace(",", ""))
        if found is None:
            return None
        power = [unit.lower() for unit in self.UNITS].index(found[2].lower())
        return int(Decimal(found[1]) * 1000**power)


class KeyedForm(forms.Form):
    """A form that starts a run: sent twice, it starts one."""

    key = KeyField()


class ReasonedForm(forms.Form):
    """A form that asks why. Whether an answer is needed is for the service to say."""

    reason = forms.CharField(label=_("Reason"), required=False, max_length=LONGEST)


def form_page(
    request: HttpRequest, form: Any, title: str, back: Any, *, template: str = FORM_PAGE
) -> HttpResponse:
    """A form on a page of its own; a refused one comes back with what was typed, as 422.

    `back` is where its link leads: an address, the name of one, or a model that has one.
    """
    status = 422 if form.is_bound and not form.is_valid() else 200
    submit = gettext("Save")
    return _shown(request, form, title, back, submit=submit, status=status, template=template)


def act_on(
    request: HttpRequest,
    form: forms.BaseForm,
    act: Callable[[Given], HttpResponse],
    *,
    title: str,
    back: Any,
    submit: str = "",
) -> HttpResponse:
    """What `act` answers to what a form says.

    When nothing was sent yet, the form cannot be read, or `act` refuses it, it is shown on a page
    of its own with what was typed and why. `back` is where its link leads: an address, or a model
    that has one. `submit` is on its button, if not the title. Raises Refused (forbidden, not
    found).
    """
    status = 422 if form.is_bound else 200
    if form.is_valid():
        try:
            return act(form.cleaned_data)
        except Refused as refusal:
            if refusal.kind in NOT_OF_FORMS:
                raise
            status = add_refusal(form, refusal)
    return _shown(request, form, title, back, submit=submit or title, status=status)


def _shown(
    request: HttpRequest,
    form: Any,
    title: str,
    back: Any,
    *,
    submit: str,
    status: int,
    template: str = FORM_PAGE,
) -> HttpResponse:
    if is_of_a_part(request):
        return refused_part(request, _problems(form), status)
    context = {"form": form, "title": title, "back": resolve_url(back), "submit": submit}
    return render(request, template, context, status=status)


def _problems(form: forms.BaseForm) -> list[str]:
    """Each with the label of the field that it is about."""
    return [
        f"{form[name].label}: {text}" if name in form.fields else str(text)
        for name, texts in form.errors.items()
        for text in texts
    ]


def add_refusal(form: forms.BaseForm, refusal: Refused) -> int:
    """Show a refusal at the field that it is about, or above all; returns its HTTP status."""
    form.add_error(refusal.field if refusal.field in form.fields else None, str(refusal))
    return status_of(refusal)


def values_before(form: forms.ModelForm) -> dict[str, Any]:
    """What the record held before the form changed it."""
    if form.instance.pk is None:
        return {}
    names = [name for name in form.fields if hasattr(form.instance, name)]
    stored = type(form.instance)._default_manager.get(pk=form.instance.pk)
    return fields_of(stored, names)
