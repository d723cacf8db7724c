"""Addresses that people type."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from opsconsole.exceptions import AdapterError


def split_url(text: str) -> SplitResult:
    """The parts of a URL. Raises AdapterError, which does not repeat it, when it has none."""
    try:
        parts = urlsplit(text)
        _ = parts.hostname, parts.port
    except ValueError as error:
        raise AdapterError(f"this is not an address: {error}") from None
    return parts
