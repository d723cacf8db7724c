"""Which language something is said in: the reader's, and English for what rows keep."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from django.utils.translation import get_language, gettext, ngettext, override

from opsconsole.sentences import Sentence, Text, filled

ENGLISH = "en"


def in_english() -> AbstractContextManager[None]:
    """While a text is made that a row, a log or a hash will hold."""
    return override(ENGLISH)


def tell(text: Text) -> str:
    """The sentence, and those it is made of, in the active language; a plain text as it is."""
    if not isinstance(text, Sentence):
        return text
    told = {
        name: tell(value) if isinstance(value, Sentence) else value
        for name, value in text.parameters.items()
    }
    return filled(_translated(text), told)


def tell_again(english: str, parts: Mapping[str, Any] | None) -> str:
    """A kept sentence in the active language; in English as it was said then."""
    if not parts or (get_language() or ENGLISH).split("-")[0] == ENGLISH:
        return english
    return tell(Sentence.read(parts))


def _translated(sentence: Sentence) -> str:
    if not sentence.plural:
        return gettext(sentence.message)
    count = sentence.parameters["count"]
    assert isinstance(count, int)
    return ngettext(sentence.message, sentence.plural, count)
