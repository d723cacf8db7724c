"""What can go wrong, by who has to act on it."""

from __future__ import annotations

from enum import Enum, auto

from opsconsole.sentences import Sentence, Text

MOST_CHARACTERS = 10_000


class ConsoleError(Exception):
    """Base of the errors a person is shown: the message says what, where, and what to do.

    What is kept of it, or is part of a sentence that is kept, is its `text`: what others said in
    it can be stored, and is no longer than somebody would read.
    """

    def __init__(self, text: Text = "") -> None:
        kept = text.changed(_storable) if isinstance(text, Sentence) else _storable(text)
        super().__init__(kept)
        self.text = kept


def _storable(text: str) -> str:
    """Without NUL and halves of surrogate pairs, which no database keeps."""
    if len(text) > MOST_CHARACTERS:
        text = f"{text[: MOST_CHARACTERS - 1]}…"
    return text.replace("\0", "").encode(errors="replace").decode()


class Kind(Enum):
    """Why something is refused. What each is told as is for who tells it: a page, a shell."""

    FORBIDDEN = auto()  # the right is missing
    NOT_FOUND = auto()  # what it is about is not there
    CONFLICT = auto()  # things are not as it takes, or no longer
    INVALID = auto()  # what was given cannot be used
    TOO_MANY = auto()  # asked too often; the same may be asked later
    UNAVAILABLE = auto()  # what it needs does not answer
    NO_ROOM = auto()  # what was given cannot be kept


class Refused(ConsoleError):
    """The user may not do this, or must do something else first. Nothing was changed.

    `field` names the input that it is about (`reason`, `typed_name`, ...), if it is about one.
    """

    def __init__(self, text: Text, *, kind: Kind = Kind.CONFLICT, field: str = "") -> None:
        super().__init__(text)
        self.kind = kind
        self.field = field


class StepFailed(ConsoleError):
    """A step ended in an expected way other than success; the run fails with this message."""


class NeedsAttention(ConsoleError):
    """The outcome cannot be decided by the console; a person has to.

    `ways` is stored with the run: a list of `{action, title, takes, leaves}`.
    """

    def __init__(self, text: Text, *, ways: list[dict[str, str]] | None = None) -> None:
        super().__init__(text)
        self.ways = ways or []


class Cancelled(ConsoleError):
    """The run was asked to stop; the message says what state the database is in."""


class FencedOut(ConsoleError):
    """This worker no longer holds the run's claim and must write nothing more."""


class AdapterError(ConsoleError):
    """Something outside refused or broke: a server, a tool, a file, an address."""
