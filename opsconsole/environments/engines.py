"""The migration engines that an application can have, named by the feature that brings them."""

from __future__ import annotations

# Migration engines that an application can have: value and name.
ENGINES: list[tuple[str, str]] = []
