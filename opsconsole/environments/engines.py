"""The migration engines that an application can have, named by the feature that brings them."""

from __future__ import annotations

from django.utils.functional import Promise

# Value and name of each.
ENGINES: list[tuple[str, str | Promise]] = []
