"""Addresses of the console's own pages."""

from __future__ import annotations

from functools import lru_cache

from django.urls import get_script_prefix, reverse


def page(name: str, *key: object) -> str:
    """The address of the page with this name, of the thing with this key."""
    return _below(get_script_prefix(), name, key)


# A list has one or two a row, and to make one takes as long as half the rest of the row.
@lru_cache(maxsize=10_000)
def _below(_prefix: str, name: str, key: tuple[object, ...]) -> str:
    return reverse(name, args=key)
