"""Where the tests keep their files: in memory, where there is enough of it.

A database is some three hundred files. ext4 without a journal passes over every inode that was
freed in the last minute, so that making and dropping databases took more of a processor's time
there than all else in a run of the tests.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import psutil

IN_MEMORY = Path("/dev/shm")
GB = 1024**3
FILES_NEED = 8 * GB
MEMORY_NEEDS = 12 * GB


def use_memory() -> None:
    """Have this process and its children make temporary files there, unless one said where."""
    if "TMPDIR" not in os.environ and _has_room():
        os.environ["TMPDIR"] = str(IN_MEMORY)
        tempfile.tempdir = None


def _has_room() -> bool:
    return (
        os.access(IN_MEMORY, os.W_OK)
        and shutil.disk_usage(IN_MEMORY).free > FILES_NEED
        and psutil.virtual_memory().available > MEMORY_NEEDS
    )
