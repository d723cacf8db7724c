"""What several views need: one page of a list, a fresh key."""

from __future__ import annotations

import uuid

from django.core.paginator import Page, Paginator
from django.db.models import QuerySet
from django.http import HttpRequest

PAGE_SIZE = 30


def page_of(request: HttpRequest, rows: QuerySet) -> Page:
    return Paginator(rows, PAGE_SIZE).get_page(request.GET.get("page"))


def is_key(text: object) -> bool:
    return isinstance(text, str) and len(text) == 32 and text.isalnum()


def new_key() -> str:
    """An idempotency key, one per rendered form: the same form twice makes one run."""
    return uuid.uuid4().hex
