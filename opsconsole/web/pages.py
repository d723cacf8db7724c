"""What several views need: one page of a list, from a place in it on, and a fresh key."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import Q, QuerySet
from django.http import HttpRequest

from opsconsole.web.keys import key_from

PAGE_SIZE = 25
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
MOMENT_AND_KEY = re.compile(r"([0-9]{1,18})-([0-9]{1,18})")


@dataclass(frozen=True)
class Cursor:
    """Where a row stands in a list: its id, and first the moment, where the list goes by one."""

    key: int
    moment: datetime | None = None

    def __str__(self) -> str:
        """As an address bears it. To the microsecond: the next row may be that close."""
        if self.moment is None:
            return str(self.key)
        return f"{(self.moment - EPOCH) // MICROSECOND}-{self.key}"


@dataclass(frozen=True)
class Order:
    """The newest first: by id, or by the moment in `field` and then by id."""

    field: str = ""

    @property
    def oldest_first(self) -> list[str]:
        return [self.field, "pk"] if self.field else ["pk"]

    @property
    def newest_first(self) -> list[str]:
        return [f"-{name}" for name in self.oldest_first]

    def cursor_of(self, row: Any) -> Cursor:
        return Cursor(row.pk, getattr(row, self.field) if self.field else None)

    def cursor_from(self, text: str) -> Cursor | None:
        """What `str` made of a cursor of this order; None for any other text."""
        if not self.field:
            return Cursor(key_from(text)) if key_from(text) else None
        if not (found := MOMENT_AND_KEY.fullmatch(text)):
            return None
        moment, key = map(int, found.groups())
        # Beyond the year 9999 there is none.
        with suppress(OverflowError):
            return Cursor(key, EPOCH + moment * MICROSECOND)
        return None

    def older(self, rows: QuerySet, than: Cursor) -> QuerySet:
        return self._beyond(rows, than, "lt").order_by(*self.newest_first)

    def newer(self, rows: QuerySet, than: Cursor) -> QuerySet:
        return self._beyond(rows, than, "gt").order_by(*self.oldest_first)

    def _beyond(self, rows: QuerySet, edge: Cursor, side: str) -> QuerySet:
        if not self.field:
            return rows.filter(**{f"pk__{side}": edge.key})
        apart = Q(**{f"{self.field}__{side}": edge.moment})
        of_the_moment = Q(**{self.field: edge.moment, f"pk__{side}": edge.key})
        # The first condition says no more than the others, but it is where an index is entered.
        return rows.filter(Q(**{f"{self.field}__{side}e": edge.moment}), apart | of_the_moment)


BY_ID = Order()


@dataclass(frozen=True)
class Stretch:
    """Rows of a list, the newest first; `older` are before that cursor, `newer` after this one.

    None where there are none.
    """

    rows: Sequence[Any]
    older: Cursor | None = None
    newer: Cursor | None = None


def stretch_of(request: HttpRequest, rows: QuerySet, order: Order = BY_ID) -> Stretch:
    """The rows before or after the cursor that the address bears, else the newest.

    Costs the same at any depth: nothing is counted, and no row is read to be skipped.
    """
    if after := order.cursor_from(request.GET.get("after", "")):
        found = list(order.newer(rows, after)[: PAGE_SIZE + 1])
        if len(found) > PAGE_SIZE:
            shown = found[PAGE_SIZE - 1 :: -1]
            last = order.cursor_of(shown[-1])
            has_older = _has_any(order.older(rows, last))
            return Stretch(shown, last if has_older else None, order.cursor_of(shown[0]))
    # What is newer than so few fills no page: they are among the newest.
    before = None if after else order.cursor_from(request.GET.get("before", ""))
    wanted = order.older(rows, before) if before else rows.order_by(*order.newest_first)
    found = list(wanted[: PAGE_SIZE + 1])
    shown = found[:PAGE_SIZE]
    older = order.cursor_of(shown[-1]) if len(found) > PAGE_SIZE else None
    return Stretch(shown, older, _newer_than(rows, before, order) if before else None)


def _newer_than(rows: QuerySet, before: Cursor, order: Order) -> Cursor | None:
    """After which those begin that are not older than `before`; None where there are none."""
    cursor = replace(before, key=before.key - 1)
    return cursor if _has_any(order.newer(rows, cursor)) else None


def _has_any(rows: QuerySet) -> bool:
    """Unlike exists(), it keeps the order: without, all that lies before the first is read."""
    return bool(rows.values_list("pk", flat=True)[:1])


def is_key(text: object) -> bool:
    return isinstance(text, str) and len(text) == 32 and text.isalnum()


def new_key() -> str:
    """An idempotency key, one per rendered form: the same form twice makes one run."""
    return uuid.uuid4().hex
