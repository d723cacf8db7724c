"""Log lines that wait to be stored: in memory, then in a file, each up to a cap."""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from typing import BinaryIO

from opsconsole.formats import counted

# Seconds since the epoch, tone, text.
Line = tuple[float, str, str]
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

    def add(self, line: Line) -> None:
        with self._guard:
            if self._dropped or not self._keep(line):
                self._dropped += 1

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

    def _keep(self, line: Line) -> bool:
        size = _size_of(line)
        # What is in the file comes first.
        if self._spill.count or self._bytes + size > self._memory_bytes:
            return self._spill.add(line)
        self._append(line)
        return True

    def _append(self, line: Line) -> None:
        self._lines.append(line)
        self._bytes += _size_of(line)

    def _read_back(self) -> None:
        for line in self._spill.take():
            self._append(line)
        if self._dropped and not self._spill.count:
            self._append((time.time(), "no", _told(self._dropped)))
            self._dropped = 0


class Spill:
    """Lines in a file without a name: nobody else can open it, and it goes with this process."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.count = 0
        self._folder = folder
        self._limit = limit
        self._file: BinaryIO | None = None
        self._begin = self._end = 0

    def add(self, line: Line) -> bool:
        """Write a line behind the others; False when it does not fit, or the disk refuses it."""
        data = json.dumps(line, ensure_ascii=False).encode() + b"\n"
        if self._end + len(data) > self._limit:
            return False
        try:
            written = os.pwrite(self._opened().fileno(), data, self._end)
        except OSError:
            return False
        if written < len(data):
            return False
        self._end += written
        self.count += 1
        return True

    def take(self) -> list[Line]:
        """Read back the first lines; the file is empty again after the last one."""
        if self._file is None:
            return []
        data = os.pread(self._file.fileno(), min(READ_BYTES, self._end - self._begin), self._begin)
        whole = data[: data.rfind(b"\n") + 1]
        lines: list[Line] = [tuple(json.loads(line)) for line in whole.splitlines()]
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


def _told(dropped: int) -> str:
    were = "was" if dropped == 1 else "were"
    return (
        f"{counted(dropped, 'line')} {were} dropped here: the console's database was away or too "
        "slow, and the worker could set aside no more"
    )
