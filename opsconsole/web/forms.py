"""A page that is one form."""

from __future__ import annotations

from typing import Any

from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from opsconsole.events.recording import fields_of


def form_page(
    request: HttpRequest, form: Any, title: str, back: str, **context: Any
) -> HttpResponse:
    """A form on a page of its own; a refused one comes back with what was typed, as 422."""
    status = 422 if form.is_bound and not form.is_valid() else 200
    return render(
        request,
        "opsconsole/form_page.html",
        {"form": form, "title": title, "back": back, **context},
        status=status,
    )


def values_before(form: ModelForm) -> dict[str, Any]:
    """What the record held before the form changed it."""
    if form.instance.pk is None:
        return {}
    names = [name for name in form.fields if hasattr(form.instance, name)]
    stored = type(form.instance)._default_manager.get(pk=form.instance.pk)
    return fields_of(stored, names)
