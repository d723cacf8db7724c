"""At most one thread of a process for one object: a target that is slow holds up its own work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_taken: set[tuple[str, int]] = set()


@contextmanager
def turn(task: str, object_id: int) -> Iterator[bool]:
    """Whether the caller may go on: not while another thread of this process is at the same."""
    key = (task, object_id)
    with _lock:
        is_free = key not in _taken
        _taken.add(key)
    try:
        yield is_free
    finally:
        if is_free:
            _taken.discard(key)
