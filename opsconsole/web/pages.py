"""What several views need: one page of a list, by number or by place, a fresh key."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.core.paginator import Page, Paginator
from django.db.models import QuerySet
from django.http import HttpRequest

from opsconsole.web.keys import key_from

PAGE_SIZE = 30


def page_of(request: HttpRequest, rows: QuerySet) -> Page:
    return Paginator(rows, PAGE_SIZE).get_page(request.GET.get("page"))


@dataclass(frozen=True)
class Stretch:
    """Rows of a list, the highest key first; `older` are before that key, `newer` after this one.

    0 where there are none.
    """

    rows: Sequence[Any]
    older: int = 0
    newer: int = 0


def stretch_of(request: HttpRequest, rows: QuerySet) -> Stretch:
    """The rows before or after the key that the address names, else the newest.

    Costs the same at any depth: nothing is counted, and no row is read to be skipped.
    """
    if after := key_from(request.GET.get("after", "")):
        found = list(rows.filter(pk__gt=after).order_by("pk")[: PAGE_SIZE + 1])
        if len(found) > PAGE_SIZE:
            shown = found[PAGE_SIZE - 1 :: -1]
            has_older = _has_any(rows.filter(pk__lt=shown[-1].pk).order_by("-pk"))
            return Stretch(shown, shown[-1].pk if has_older else 0, shown[0].pk)
    # What is newer than so few fills no page: they are among the newest.
    before = 0 if after else key_from(request.GET.get("before", ""))
    wanted = rows.filter(pk__lt=before) if before else rows
    found = list(wanted.order_by("-pk")[: PAGE_SIZE + 1])
    shown = found[:PAGE_SIZE]
    older = shown[-1].pk if len(found) > PAGE_SIZE else 0
    has_newer = before > 1 and _has_any(rows.filter(pk__gte=before).order_by("pk"))
    return Stretch(shown, older, before - 1 if has_newer else 0)


def _has_any(rows: QuerySet) -> bool:
    """Unlike exists(), it keeps the order: without, all that lies before the first is read."""
    return bool(rows.values_list("pk", flat=True)[:1])


def is_key(text: object) -> bool:
    return isinstance(text, str) and len(text) == 32 and text.isalnum()


def new_key() -> str:
    """An idempotency key, one per rendered form: the same form twice makes one run."""
    return uuid.uuid4().hex
