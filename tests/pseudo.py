"""A made-up language that translates every message, and the texts of a page that are not in it.

No catalogue and no gettext tool: while it is `spoken`, whoever asks for it gets each message with
accents, a third longer, between ⟦ and ⟧, placeholders and HTML as they were. What a page shows
outside of these brackets is data, or was forgotten when it was to be marked for translation.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from gettext import NullTranslations
from html.parser import HTMLParser
from itertools import chain
from unittest.mock import patch
from zoneinfo import available_timezones

from django.apps import apps
from django.conf import settings
from django.test import override_settings
from django.utils.translation import trans_real

LANGUAGE = "qps"
ASKS_FOR_IT = {"Accept-Language": LANGUAGE}

OPENS, CLOSES = "⟦", "⟧"
ACCENTS = str.maketrans("aceinouyACEINOUY", "áçéíñóúýÁÇÉÍÑÓÚÝ")
TAG = re.compile(r"(<[^<>]+>)")
KEPT = re.compile(r"(%\(\w+\)[-+ #0-9.]*[a-z]|%[%sdr]|\{\w*\}|&#?\w+;)")
# A context, of Django's own messages, is no part of the message.
CONTEXT = trans_real.CONTEXT_SEPARATOR


def translated(message: str) -> str:
    """The message in the made-up language; what is between two tags is a text of its own."""
    parts = TAG.split(message.rpartition(CONTEXT)[2])
    return "".join(part if TAG.match(part) else _bracketed(part) for part in parts)


def _bracketed(text: str) -> str:
    if not any(letter.isalpha() for letter in KEPT.sub("", text)):
        return text
    # `yes,no,maybe` is three words to Django.
    if re.fullmatch(r"\w+(,\w+)+", text):
        return ",".join(map(_bracketed, text.split(",")))
    accented = "".join(
        part if KEPT.match(part) else part.translate(ACCENTS) for part in KEPT.split(text)
    )
    return f"{OPENS}{accented}{'·' * (len(text) // 3)}{CLOSES}"


class _Translation(NullTranslations):
    """Django's translation object of the language."""

    def gettext(self, message: str) -> str:
        return translated(message)

    def ngettext(self, msgid1: str, msgid2: str, n: int) -> str:
        return translated(msgid1 if n == 1 else msgid2)

    def to_language(self) -> str:
        return LANGUAGE


@contextmanager
def spoken() -> Iterator[None]:
    """While this process speaks the language, to requests with `ASKS_FOR_IT`."""
    exists = trans_real.translation_catalog_exists
    with (
        override_settings(LANGUAGES=[*settings.LANGUAGES, (LANGUAGE, "Pseudo")]),
        patch.dict(trans_real._translations, {LANGUAGE: _Translation()}),
        patch.object(
            trans_real,
            "translation_catalog_exists",
            lambda code: code == LANGUAGE or exists(code),
        ),
    ):
        yield


# -- what a page shows

# Said aloud or shown besides the text between tags.
ATTRIBUTES = {
    "alt",
    "aria-label",
    "data-announce",
    "data-label",
    "data-title",
    "placeholder",
    "title",
}
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"}
# They hold code, or nothing that is read. What is said in English, as a row keeps it, has `lang`.
OF_NO_LANGUAGE = {"code", "kbd", "pre", "script", "style"}


# Within a sentence. Where any other element begins or ends, one that was cut short ends, too.
INLINE = {"a", "b", "br", "code", "kbd", "small", "span", "svg", "time", "use"}


@dataclass(frozen=True)
class Text:
    """What a page shows or says, and what of it stands outside of all brackets."""

    shown: str
    outside: str


class _Page(HTMLParser):
    """Collects the texts of a page that are to be in its language."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[Text] = []
        # The open elements, each with whether its content is to be translated.
        self._open: list[tuple[str, bool]] = []
        # How many brackets are open: a message may have elements within.
        self._depth = 0

    @property
    def _is_translated(self) -> bool:
        return not self._open or self._open[-1][1]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._end_sentence(tag)
        given = dict(attrs)
        is_translated = (
            self._is_translated
            and tag not in OF_NO_LANGUAGE
            and given.get("translate") != "no"
            and (tag == "html" or given.get("lang") != "en")
            and "mono" not in (given.get("class") or "").split()
        )
        if is_translated:
            said = [given[name] or "" for name in ATTRIBUTES & given.keys()]
            if tag == "input" and given.get("type") in {"submit", "button", "reset"}:
                said.append(given.get("value") or "")
            self.texts += [Text(text, _outside(text, 0)[0]) for text in said]
        if tag not in VOID:
            self._open.append((tag, is_translated))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        self._end_sentence(tag)
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        outside, self._depth = _outside(data, self._depth)
        if self._is_translated:
            self.texts.append(Text(data, outside))

    def _end_sentence(self, tag: str) -> None:
        if tag not in INLINE:
            self._depth = 0


def _outside(text: str, depth: int) -> tuple[str, int]:
    """What of a text stands outside of all brackets, of which `depth` are open before it and how
    many after it."""
    kept = []
    for letter in text:
        if letter == OPENS:
            depth += 1
        elif letter == CLOSES:
            depth = max(0, depth - 1)
        elif not depth:
            kept.append(letter)
    return "".join(kept), depth


def texts_of(html: str) -> list[Text]:
    """Every text that a page shows or says in its language, in order."""
    page = _Page()
    page.feed(html)
    page.close()
    return [Text(_in_a_row(text.shown), _in_a_row(text.outside)) for text in page.texts]


def _in_a_row(text: str) -> str:
    return " ".join(text.split())


# Proper names and units: the same in every language.
NAMES = (
    "Ops Console",
    "PostgreSQL",
    "SHA-256",
    "SQL",
    "CSV",
    "UTC",
    "pg_dump",
    "pg_restore",
    "Prisma",
    "dbmate",
    "ms",
    "s",
    "min",
    "h",
    "d",
    "B",
    "kB",
    "MB",
    "GB",
    "TB",
)
WORD = re.compile(r"\w*[^\W\d_]\w*")


# A key that pages are to have a word for. What else looks like one is a name, or shown as code.
KEY = re.compile("[a-z_]+")
ARE_NAMES = {"name", "slug", "username", "actor_label", "object_label", "ref", "reason"}


def stored_texts() -> Iterator[str]:
    """Every text of every row, but for keys that pages have words for."""
    for model in apps.get_models():
        names = [field.name for field in model._meta.concrete_fields if not field.choices]
        for row in model._base_manager.values(*names):
            for name, value in row.items():
                is_name = name in ARE_NAMES and model._meta.model_name != "step"
                yield from (t for t in _texts_in(value) if is_name or not KEY.fullmatch(t))


def _texts_in(value: object) -> Iterator[str]:
    """The texts of a value, at any depth of JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts_in(each)


class Data:
    """What people and tests have put in, by which a page's data is told from its words."""

    def __init__(self, values: Iterable[str]) -> None:
        """`values` are texts as they were put in, in any case."""
        known = {_in_a_row(value).lower() for value in chain(values, NAMES, available_timezones())}
        self._all = "\n".join(known)
        self._by_first_word: dict[str, list[str]] = defaultdict(list)
        # The longest first: a shorter one may be a part of it.
        for value in sorted(known, key=len, reverse=True):
            if word := WORD.search(value):
                self._by_first_word[word.group()].append(value)

    def is_all_of(self, text: str) -> bool:
        """Whether nothing is left of a text without the data in it. One cut short counts, too."""
        text = text.lower()
        if text.endswith("…") and len(text) > 30 and text[-30:-1] in self._all:
            return True
        while word := WORD.search(text):
            after = self._end_of_data(text, word)
            if after is None:
                return False
            text = text[after:]
        return True

    def _end_of_data(self, text: str, word: re.Match[str]) -> int | None:
        """Where the longest data ends that begins with that word of a text; None without one."""
        for value in self._by_first_word[word.group()]:
            start = word.start() - value.index(word.group())
            end = start + len(value)
            is_whole = not text[end : end + 1].isalnum()
            if start >= 0 and is_whole and text.startswith(value, start):
                return end
        return None


def unmarked(html: str, data: Data) -> list[str]:
    """The texts of a page in the made-up language that are neither in it nor data."""
    return [text.shown for text in texts_of(html) if not data.is_all_of(text.outside)]
