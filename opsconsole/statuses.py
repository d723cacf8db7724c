"""Statuses that adapters speak too. No Django: whoever shows a word translates it."""

from __future__ import annotations

from enum import StrEnum
from typing import Self


def gettext_noop(word: str) -> str:
    """Marks a word to be translated, by the name that Django's makemessages looks for."""
    return word


class Status(StrEnum):
    """Values as they are stored, each with its English word, a tone and an icon."""

    word: str
    tone: str
    icon: str

    # The defaults are for type checkers, which take Status("failed") for a call of this.
    def __new__(cls, value: str, word: str = "", tone: str = "", icon: str = "") -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.word, member.tone, member.icon = word, tone, icon
        return member
