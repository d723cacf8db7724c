"""How features tell the platform how work of each kind is done, without being imported by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from django.utils.functional import Promise

# What is kept with work of the list: keys of the rows and objects that it is about.
Arguments = dict[str, int | str]


@dataclass(frozen=True)
class Work:
    """Work of one kind that is put on the work list.

    `handle(arguments)` does it on a worker, outside of any transaction: it may take the network,
    and may come again for work that it has already done. It returns what writes the outcome into
    the console's own database; that is called in the transaction that marks the item done. When
    either raises, the item is tried again later. `title` is what people read.
    """

    key: str
    title: str | Promise
    handle: Callable[[Arguments], Callable[[], object]]


WORK: dict[str, Work] = {}
# Keys that services put on the work list; a system check finds those that nobody does.
WORK_KEYS: set[str] = set()


def work_key(key: str) -> str:
    """Declare the key of work that this module puts on the list; returns it."""
    WORK_KEYS.add(key)
    return key


def register_work(work: Work) -> None:
    WORK[work.key] = work
