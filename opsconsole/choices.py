"""How a status looks: the base of every choice that has a word, a tone and an icon."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.utils.translation import gettext

from opsconsole.statuses import Status


class Shown(models.TextChoices):
    """Choices that also know how they look: `looks` maps value -> (tone, icon)."""

    @classmethod
    def looks(cls) -> dict[str, tuple[str, str]]:
        return {}

    @property
    def tone(self) -> str:
        return self.looks()[self.value][0]

    @property
    def icon(self) -> str:
        return self.looks()[self.value][1]


def look_of(choice: Any) -> tuple[str, str, str]:
    """Return (tone, icon, word) of a status value that has looks."""
    word = gettext(choice.word) if isinstance(choice, Status) else str(choice.label)
    return choice.tone, choice.icon, word
