"""Read a script from a migrations folder that anybody may have written to."""

from __future__ import annotations

import stat
from pathlib import Path

from opsconsole.exceptions import AdapterError
from opsconsole.formats import count, size

MOST_BYTES = 8_000_000


def read_script(file: Path, root: Path) -> str:
    """The text of a script, exactly. `root` is the migrations folder that it must lie in.

    Raises FileNotFoundError when there is none, and AdapterError for anything but a regular
    UTF-8 file of at most 8 MB inside `root`: a link that leads out, a pipe, a NUL byte.
    """
    try:
        if not file.resolve(strict=True).is_relative_to(root.resolve()):
            raise AdapterError("is a link that leads out of the migrations folder")
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):
            raise AdapterError("is not a regular file")
        if found.st_size > MOST_BYTES:
            raise AdapterError(
                f"is {size(found.st_size)}; scripts of up to {size(MOST_BYTES)} are read"
            )
        text = file.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise AdapterError(f"is not UTF-8 at byte {count(error.start)}") from error
    except FileNotFoundError:
        raise
    except RuntimeError as error:
        raise AdapterError("is a link that leads to itself") from error
    except OSError as error:
        raise AdapterError(f"cannot be read: {error.strerror}") from error
    if "\x00" in text:
        line = text.count("\n", 0, text.index("\x00")) + 1
        raise AdapterError(f"holds a NUL byte at line {line}, which PostgreSQL cannot take")
    return text


def not_text(name: str) -> str:
    """Why a file of that name cannot be used; "" for one whose name is text."""
    shown = name.encode(errors="replace").decode()
    return "" if shown == name else f"{shown}: its name is not UTF-8 text"
