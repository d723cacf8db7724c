"""Where a right is held or asked for: the console, an application, an environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Spot:
    """A place by its ids. An environment bears its application's too, the console bears none."""

    application_id: int | None = None
    environment_id: int | None = None


class Place(Protocol):
    """What a right can be held on; each contains what lies below it."""

    @property
    def spot(self) -> Spot: ...


class Console:
    """The console as a place: what belongs to no application, such as people and storages."""

    spot = Spot()


CONSOLE: Place = Console()
