"""What every verb of `manage.py ops` needs.

A subject or feature offers its verbs as `VERBS` of its `cli.py`; the command collects them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from opsconsole.access.models import User
from opsconsole.access.permissions import console_admins
from opsconsole.exceptions import Kind, Refused
from opsconsole.formats import duration, visible
from opsconsole.web.keys import key_from

DONE, FAILED = 0, 1
ANSWER_SECONDS = 30
MOST_ROWS = 10_000
Answer = TypeVar("Answer")


class Output(Protocol):
    def write(self, msg: str) -> None: ...


@dataclass(frozen=True)
class VisibleOutput:
    """What is printed, for a terminal: nothing in it is obeyed by one."""

    output: Output

    def write(self, msg: str) -> None:
        self.output.write(visible(msg))


@dataclass(frozen=True)
class Call:
    """One call of a verb: its options, and where its answer goes."""

    options: argparse.Namespace
    output: Output

    def actor(self) -> User:
        """Who acts: the user of `--as`, or the first admin. Raises Refused when there is none."""
        if self.options.user:
            user = User.objects.filter(username=self.options.user, is_active=True).first()
        else:
            user = console_admins().order_by("pk").first()
        if user is None:
            who = self.options.user or "with the role admin"
            raise Refused(f"there is no user {who}", kind=Kind.NOT_FOUND)
        return user

    def print(self, document: Any, lines: list[str]) -> None:
        """Print the document with `--json`, and the lines otherwise."""
        if self.options.json:
            self.output.write(json.dumps(document, indent=2, default=str))
        else:
            for line in lines:
                self.output.write(line)


def _nothing(_parser: argparse.ArgumentParser) -> None:
    """The arguments of a verb that takes none."""


@dataclass(frozen=True)
class Verb:
    """A verb, or with `verbs` a group of them.

    `arguments` adds its own to those that all verbs share; `run` returns the exit status. It
    raises Refused or another ConsoleError for what the person at the shell has to know.
    """

    name: str
    help: str
    run: Callable[[Call], int] | None = None
    arguments: Callable[[argparse.ArgumentParser], None] = _nothing
    verbs: Sequence[Verb] = ()


def takes(*names: str) -> Callable[[argparse.ArgumentParser], None]:
    """The arguments of a verb that takes only these, in this order."""

    def add(parser: argparse.ArgumentParser) -> None:
        for name in names:
            parser.add_argument(name)

    return add


def row_count(text: str) -> int:
    """How many rows to list; argparse shows what is wrong with another text."""
    if not 1 <= key_from(text) <= MOST_ROWS:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 to {MOST_ROWS}")
    return key_from(text)


def wait_for(
    read: Callable[[], Answer | None],
    otherwise: str = "no worker answered: is the console running?",
) -> Answer:
    """What a worker answers. Raises Refused with `otherwise` when none has in ANSWER_SECONDS."""
    end = time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < end:
        if answer := read():
            return answer
        time.sleep(0.1)
    raise Refused(f"{otherwise} (waited {duration(ANSWER_SECONDS)})", kind=Kind.UNAVAILABLE)
