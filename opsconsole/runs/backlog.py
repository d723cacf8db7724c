"""Log lines that wait to be stored: in memory, then in a file, each up to a cap."""

from __future__ import annotations

import itertools
import os
import tempfile
import threading
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import orjson

from opsconsole.formats import counted
from opsconsole.runs.lines import Line

# What a line takes besides its text, in bytes.
LINE_BYTES = 100
# More than the longest line, quoted, takes.
READ_BYTES = 256 * 1024


class Backlog:
    """Lines in order, taken out from the front by one thread and added by any.

    Adding waits for nothing but the worker's own disk. What neither memory nor the file can take
    is dropped until those before it are taken, and a line at that place says how many were.
    """

    def __init__(self, folder: Path, memory_bytes: int, file_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        self._lines: deque[Line] = deque()
        self._bytes = 0
        self._spill = Spill(folder, file_bytes)
        self._dropped = 0
        self._guard = threading.Lock()

    def __len__(self) -> int:
        with self._guard:
            return len(self._lines) + self._spill.count + self._dropped

    def add(self, lines: list[Line]) -> None:
        with self._guard:
            # What is in the file comes first, and what was dropped before what is added now.
            if not self._spill.count and not self._dropped:
                lines = lines[self._append(lines) :]
            if lines and not self._dropped:
                lines = lines[self._spill.add(lines) :]
            self._dropped += len(lines)

    def holds(self, lines: int, size: int) -> bool:
        """Whether so many lines, or bytes of them, wait in memory."""
        return len(self._lines) >= lines or self._bytes >= size

    def take(self, lines: int, size: int) -> list[Line]:
        """Take out the first lines, at most so many, and no more once they have so many bytes."""
        taken: list[Line] = []
        with self._guard:
            if not self._lines:
                self._read_back()
            rest = size
            while self._lines and len(taken) < lines and rest > 0:
                line = self._lines.popleft()
                taken.append(line)
                rest -= len(line[2])
                self._bytes -= _size_of(line)
        return taken

    def close(self) -> None:
        with self._guard:
            self._spill.close()

    def _append(self, lines: list[Line]) -> int:
        """Take into the memory what fits; returns how many."""
        fits = _how_many_fit(map(_size_of, lines), self._memory_bytes - self._bytes)
        taken = lines[:fits]
        self._lines.extend(taken)
        self._bytes += sum(map(_size_of, taken))
        return fits

    def _read_back(self) -> None:
        lines = self._spill.take()
        if self._dropped and not self._spill.count:
            lines.append((time.time(), "no", _told(self._dropped)))
            self._dropped = 0
        self._lines.extend(lines)
        self._bytes += sum(map(_size_of, lines))


class Spill:
    """Lines in a file without a name: nobody else can open it, and it goes with this process."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.count = 0
        self._folder = folder
        self._limit = limit
        self._file: BinaryIO | None = None
        self._begin = self._end = 0

    def add(self, lines: list[Line]) -> int:
        """Write them behind the others; returns how many fit, none when the disk refuses them."""
        whole = [orjson.dumps(line) + b"\n" for line in lines]
        fits = _how_many_fit(map(len, whole), self._limit - self._end)
        data = b"".join(whole[:fits])
        try:
            written = os.pwrite(self._opened().fileno(), data, self._end)
        except OSError:
            return 0
        if written < len(data):
            # The disk is full. Nothing comes behind a line that is there in part: the next one is
            # dropped, and the file emptied, before it takes more.
            fits = data.count(b"\n", 0, written)
        self._end += written
        self.count += fits
        return fits

    def take(self) -> list[Line]:
        """Read back the first lines; the file is empty again after the last one."""
        if self._file is None:
            return []
        data = os.pread(self._file.fileno(), min(READ_BYTES, self._end - self._begin), self._begin)
        whole = data[: data.rfind(b"\n") + 1]
        lines: list[Line] = [tuple(orjson.loads(line)) for line in whole.splitlines()]
        self._begin += len(whole)
        self.count -= len(lines)
        if not self.count:
            self._begin = self._end = 0
            self._file.truncate(0)
        return lines

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def _opened(self) -> BinaryIO:
        if self._file is None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(prefix="log-", dir=self._folder, buffering=0)  # noqa: SIM115
        return self._file


def _size_of(line: Line) -> int:
    return len(line[2]) + LINE_BYTES


def _how_many_fit(sizes: Iterable[int], room: int) -> int:
    return bisect_right(list(itertools.accumulate(sizes)), room)


def _told(dropped: int) -> str:
    were = "was" if dropped == 1 else "were"
    return (
        f"{counted(dropped, 'line')} {were} dropped here: the console's database was away or too "
        "slow, and the worker could set aside no more"
    )
