"""What the console says of what it did, and keeps. Pure.

A text that is only shown is marked with gettext. One that is kept is a `Sentence`: its row holds
the English, as it was said, and the parts; the audit trail, exports and the command line show the
English, and pages tell it in the reader's language (`opsconsole/language.py`). `makemessages` finds
them with `--keyword=say --keyword=say_count:1,2`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Sentence:
    """A message in English, and what its placeholders stand for. str() is the English.

    The message is also the code under which it is translated; `plural` is the one for a `count`
    other than one.
    """

    message: str
    parameters: Mapping[str, object] = field(default_factory=dict)
    plural: str = ""

    def __str__(self) -> str:
        is_one = not self.plural or self.parameters["count"] == 1
        return filled(self.message if is_one else self.plural, self.parameters)

    def changed(self, change: Callable[[str], str]) -> Sentence:
        """The same, with every text among its parameters changed so."""
        return Sentence(
            self.message,
            {name: _changed(value, change) for name, value in self.parameters.items()},
            self.plural,
        )

    def stored(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "message": self.message,
            "plural": self.plural,
            "parameters": {name: _stored(value) for name, value in self.parameters.items()},
        }

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> Sentence:
        """What `stored` returned."""
        parameters = {
            name: cls.read(value) if isinstance(value, dict) else value
            for name, value in stored["parameters"].items()
        }
        return cls(stored["message"], parameters, stored["plural"])


# A plain text, such as a server's message, is in no language of ours.
Text = str | Sentence


def say(message: str, **parameters: object) -> Sentence:
    return Sentence(message, parameters)


def say_count(one: str, many: str, count: int, **parameters: object) -> Sentence:
    return Sentence(one, {**parameters, "count": count}, many)


def filled(template: str, parameters: Mapping[str, object]) -> str:
    """The template with its parameters: a `count` is grouped by thousands, and what is right before
    a full stop is said without its own."""
    return template % {
        name: _shown(name, value, ends=f"%({name})s." in template)
        for name, value in parameters.items()
    }


def _shown(name: str, value: object, *, ends: bool) -> str:
    if name == "count" and isinstance(value, int):
        return f"{value:,}"
    return str(value).removesuffix(".") if ends else str(value)


def _changed(value: object, change: Callable[[str], str]) -> object:
    if isinstance(value, Sentence):
        return value.changed(change)
    return value if isinstance(value, int) else change(str(value))


def _stored(value: object) -> object:
    if isinstance(value, Sentence):
        return value.stored()
    return value if isinstance(value, int) else str(value)
