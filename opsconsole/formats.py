"""How sizes, durations and counts are written: in pages, logs and refusals alike. Pure."""

from __future__ import annotations

import re

# ECMA-48: a control sequence, and an operating system command such as a title or a link.
ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?")

# What a terminal obeys (C0, DEL, C1), and what turns the direction of the text around it (Unicode's
# bidirectional algorithm, UAX 9); not the white space of a text of many lines.
UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]|\r(?!\n)")
UNSEEN_IN_UTF8 = re.compile(
    rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\xaa-\xae]|\xe2\x81[\xa6-\xa9]"
)


def size(amount: float) -> str:
    """Bytes in decimal units, at most one digit: `812 B`, `12 kB`, `41.2 MB`, `2.1 TB`."""
    unit = "B"
    for larger in ("kB", "MB", "GB", "TB"):
        # What would round to 1,000 is one of the larger unit.
        if round(amount, 1) < 1000:
            break
        amount, unit = amount / 1000, larger
    return f"{_number(amount)} {unit}"


def duration(seconds: float) -> str:
    """At most two units, and none of zero: `120 ms`, `2.1 s`, `38 s`, `5 min`, `2 h 5 min`."""
    if round(seconds * 1000) < 1000:
        return f"{seconds * 1000:.0f} ms"
    if round(seconds, 1) < 10:
        return f"{_number(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return _of_two((minutes, "min"), (rest, "s"))
    return _of_two((minutes // 60, "h"), (minutes % 60, "min"))


def count(number: int) -> str:
    """`48,533`."""
    return f"{number:,}"


def counted(number: int, one: str, many: str = "") -> str:
    """`1 row`, `48,533 rows`, in English: for logs, and what else is not translated. `many` is for
    a word that does not end in s."""
    return f"{count(number)} {one if number == 1 else many or f'{one}s'}"


def one_line(text: str, at_most: int) -> str:
    """Text of somebody else's as one line of printable characters, cut to `at_most` of them.

    Dropped are escape sequences of terminals, control characters, and what turns the direction of
    the text around it; so is half a surrogate pair, which no database stores.
    """
    shortened = ESCAPES.sub("", text[: 4 * at_most])
    kept = (each for each in shortened if each.isprintable() or each.isspace())
    line = " ".join("".join(kept).split())
    if len(line) <= at_most and len(text) <= 4 * at_most:
        return line
    return f"{line[: at_most - 1]}…"


def visible(text: str) -> str:
    """The text with what a terminal obeys, or what turns its direction, written out: `[U+202E]`."""
    return UNSEEN.sub(_code, text)


def _code(found: re.Match[str]) -> str:
    return f"[U+{ord(found[0]):04X}]"


def _number(value: float) -> str:
    return f"{value:,.1f}".removesuffix(".0")


def _of_two(*parts: tuple[int, str]) -> str:
    return " ".join(f"{count(number)} {unit}" for number, unit in parts if number)
