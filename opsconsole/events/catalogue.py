"""What can happen: each event with its sentence, its tone, its data and who may see it.

Subjects and features declare theirs in their `events.py`. An event that nothing records any more
stays declared: rows of it are kept for good, and are told by its sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, Literal, Self, TypeVar

from django.utils.functional import Promise
from pydantic import BaseModel, ConfigDict, Field, ValidationError

Tone = Literal["good", "info", "warn", "bad", "idle"]
Look = tuple[Tone, str]

LOOKS: dict[Tone, Look] = {
    "good": ("good", "circle-check"),
    "info": ("info", "circle-dot"),
    "warn": ("warn", "triangle-alert"),
    "bad": ("bad", "circle-x"),
    "idle": ("idle", "scroll-text"),
}


class Audience(Enum):
    """Who sees an event."""

    ENVIRONMENT = "whoever sees its environment"
    CONSOLE = "whoever has a role on the whole console"


class Data(BaseModel):
    """What is recorded with an event, by name; stored as the row's details.

    Only what was set is stored. Each field without a default has an example.
    """

    model_config = ConfigDict(frozen=True)

    @classmethod
    def example(cls) -> Self:
        fields = cls.model_fields.items()
        return cls.model_validate({n: f.examples[0] for n, f in fields if f.examples})

    def words(self) -> dict[str, object]:
        """What the placeholders of the sentence are filled with."""
        return dict(self)

    def stored(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_unset=True)


class NoData(Data):
    """There is no more to it than who did it, to what, and when."""


class Changed(Data):
    """Settings before and after, by name."""

    before: Mapping[str, Any] = Field(examples=[{"name": "Shop"}])
    after: Mapping[str, Any] = Field(examples=[{"name": "The shop"}])


D = TypeVar("D", bound=Data)


class _Words(dict[str, object]):
    """Words for placeholders; one that a row of an older version lacks is left out."""

    def __missing__(self, name: str) -> str:
        return "…"


@dataclass(frozen=True)
class Event(Generic[D]):
    """Something that can happen. Its key is stored with every row of it and never changes.

    The sentence has named placeholders: those of its data, and `actor`, `object`, `environment`
    and `run` (its number) of the row.
    """

    key: str
    sentence: str | Promise
    tone: Tone
    data: type[D]
    seen_by: Audience

    def told(self, names: Mapping[str, object], details: Mapping[str, Any]) -> str:
        """The sentence in the active language. Details of any version are read."""
        try:
            words: Mapping[str, object] = self.data.model_validate(details).words()
        except ValidationError:
            words = details
        return str(self.sentence) % _Words({**words, **names})

    @property
    def outline(self) -> str:
        """The sentence with every placeholder left open, to choose it from a list."""
        return str(self.sentence) % _Words()


CATALOGUE: dict[str, Event[Any]] = {}


def event(
    key: str,
    sentence: str | Promise,
    *,
    data: type[D],
    tone: Tone = "info",
    seen_by: Audience = Audience.ENVIRONMENT,
) -> Event[D]:
    """Declare an event; returns it. Raises ValueError for a key that is taken."""
    if key in CATALOGUE:
        raise ValueError(f"the event {key} is declared twice")
    CATALOGUE[key] = made = Event(key, sentence, tone, data, seen_by)
    return made
