"""Addresses that an open page asks for again and again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from django.http import HttpRequest

V = TypeVar("V", bound=Callable)


def polled(view: V) -> V:
    """Mark a view whose fragment polls: a poll that is refused is nothing that a person did."""
    view.is_polled = True  # type: ignore[attr-defined]
    return view


def is_poll(request: HttpRequest) -> bool:
    """Whether it is a poll of an open page. Where a page and its fragment share an address, only
    htmx's requests are."""
    match = request.resolver_match
    return bool(
        request.method == "GET"
        and request.headers.get("HX-Request")
        and match
        and getattr(match.func, "is_polled", False)
    )
