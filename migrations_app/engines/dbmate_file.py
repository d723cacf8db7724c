"""The sections of one dbmate file, found exactly as dbmate finds them: by line, not by SQL.

Source: dbmate's pkg/dbmate/migration.go, and the tool itself (2.36). A marker counts inside a
comment, a string or a dollar quote too; an indented or capital one does not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from opsconsole.exceptions import AdapterError

# Go's \s; Python's takes more.
SPACE = r"[\t\n\f\r ]"
WORD_FOLLOWS = rf"(?:{SPACE}*$|{SPACE}+[^\t\n\f\r ]+)"
UP = re.compile(rf"^--(?P<gap>{SPACE}*)migrate:up{WORD_FOLLOWS}", re.MULTILINE)
DOWN = re.compile(rf"^--{SPACE}*migrate:down{WORD_FOLLOWS}", re.MULTILINE)
NO_STATEMENT = re.compile(rf"{SPACE}*(?:--.*)?", re.DOTALL)
DIRECTIVE = re.compile(rf"^--{SPACE}*migrate:(?:up|down)")
# What a person may have meant as a marker.
MEANT = re.compile(
    r"^[^\S\n]*-+[^\S\n]*migrate[^\S\n]*:[^\S\n]*(up|down)", re.MULTILINE | re.IGNORECASE
)
# Unicode's White_Space, which Go trims; Python's strip() takes more.
WHITE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True)
class Sections:
    """A file's one up section and its down section, each from its marker on.

    `start` is where the up section begins, in characters.
    """

    start: int
    up: str
    down: str

    @property
    def in_transaction(self) -> bool:
        return _options(self.up).get("transaction") != "false"

    @property
    def up_sql(self) -> str:
        """What `dbmate up` has the server run, without the marker.

        To the server the marker is a comment, which also a lone carriage return ends.
        """
        ends = re.search(r"[\r\n]", self.up)
        return self.up[ends.start() :] if ends else ""


def read_sections(text: str) -> Sections:
    """Find the sections. Raises AdapterError for a file that dbmate would not run to its end,
    with the line and what to do."""
    if text.startswith(BYTE_ORDER_MARK):
        raise AdapterError(
            "line 1 begins with an invisible byte order mark, which dbmate takes for a statement: "
            "save the file as UTF-8 without it"
        )
    ups = list(UP.finditer(text))
    if not ups:
        raise AdapterError(
            _mistaken_marker(text, "up")
            or "line 1 begins no `-- migrate:up` section: put that line above what is to be applied"
        )
    start, end = ups[0].start(), ups[1].start() if len(ups) > 1 else len(text)
    _refuse_statement_before(text[:start])
    down = _only_down(text, start, end)
    if len(ups) > 1:
        raise AdapterError(
            f"{_line(text, end)} begins a second `-- migrate:up` section: dbmate applies the "
            "first, records the file as applied and fails; move the second to a file of its own"
        )
    if re.search(r"[\r\n]", ups[0]["gap"]):
        raise AdapterError(
            f"{_line(text, start)} breaks its `-- migrate:up` in two, and the server would take "
            "the second half for SQL: write it on one line"
        )
    return Sections(start, text[start:down], text[down:])


def _refuse_statement_before(lead: str) -> None:
    for number, line in enumerate(lead.split("\n"), 1):
        if not NO_STATEMENT.fullmatch(line):
            raise AdapterError(
                f"line {number} comes before `-- migrate:up`, where dbmate allows only blank lines "
                "and `--` comments: move it below"
            )


def _only_down(text: str, start: int, end: int) -> int:
    """Where the down section of the up section at `start` begins."""
    downs = list(DOWN.finditer(text[start:end]))
    if not downs:
        raise AdapterError(
            _mistaken_marker(text[:end], "down", start)
            or f"{_line(text, start)} begins a `-- migrate:up` section without its "
            "`-- migrate:down`: add that line, with nothing below it if there is no way back"
        )
    if len(downs) > 1:
        raise AdapterError(
            f"{_line(text, start + downs[1].start())} is a second `-- migrate:down`, which dbmate "
            "rejects: keep one"
        )
    return start + downs[0].start()


def _mistaken_marker(text: str, word: str, start: int = 0) -> str:
    """Why the first line from `start` on that was meant as a marker is none; "" without one."""
    for meant in MEANT.finditer(text, start):
        if meant[1].lower() == word:
            return (
                f"{_line(text, meant.start())} is no marker to dbmate: write `-- migrate:{word}` "
                "in small letters at the start of the line, with a space before anything after it"
            )
    return ""


def _options(section: str) -> dict[str, str]:
    """The `name:value` pairs of the section's first line; of two with one name the last counts."""
    line = DIRECTIVE.sub("", section.split("\n", 1)[0]).strip(WHITE)
    pairs = [part.split(":") for part in re.split(rf"{SPACE}+", line)]
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def _line(text: str, place: int) -> str:
    return f"line {text.count(chr(10), 0, place) + 1}"
