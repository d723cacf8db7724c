"""Primary keys that come from outside as text."""

from __future__ import annotations

DIGITS = 18


def key_from(text: str) -> int:
    """The number that a text names in ASCII digits, as far as a bigint key goes; else 0, no key."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= DIGITS else 0
