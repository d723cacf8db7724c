"""PostgreSQL's own parser, asked only what it survives."""

from __future__ import annotations

import re
from itertools import islice
from typing import Any

import pglast
from pglast.parser import ParseError, scan

# A chain of so many operators or UNIONs is read; a few times as many overrun the stack of a thread,
# and end the process. The server's own limit of depth is lower.
MOST_LEVELS = 10_000
# What nests to the left, and so without the parser's own limit.
CHAINED = re.compile(
    r"[-+*/%^<>=|&#~!?@:\[]|\b(?:union|except|intersect|join|is|isnull|notnull|collate|at|and|or"
    r"|like|ilike|similar|in|between|operator)\b",
    re.IGNORECASE,
)
OPENING, CLOSING = {"ASCII_40", "ASCII_91"}, {"ASCII_41", "ASCII_93"}
# After one of these a chain begins anew: elements of a list, statements.
SEPARATORS = {"ASCII_44", "ASCII_59"}
NO_LEVEL = {
    "SQL_COMMENT", "C_COMMENT", "ICONST", "FCONST", "SCONST", "BCONST", "XCONST", "IDENT", "PARAM",
}  # fmt: skip


def parse_sql(sql: str) -> Any:
    """The statements. Raises ParseError for what is none, and for one that is nested too deeply."""
    if _may_be_deep(sql) and _is_too_deep(sql):
        raise ParseError("it is nested too deeply to be read")
    return pglast.parse_sql(sql)


def _may_be_deep(sql: str) -> bool:
    """Cheap, as it is asked for every file."""
    found = islice(CHAINED.finditer(sql), MOST_LEVELS)
    return len(sql) > MOST_LEVELS and sum(1 for _ in found) == MOST_LEVELS


def _is_too_deep(sql: str) -> bool:
    """Whether the words outside of lists could nest that far: each counts as a level."""
    levels, outer = 0, [0]
    for token in scan(sql):
        if token.name in CLOSING and len(outer) > 1:
            levels -= outer.pop()
        elif token.name in SEPARATORS:
            levels -= outer[-1]
            outer[-1] = 0
        elif token.name not in NO_LEVEL:
            levels += 1
            outer[-1] += 1
            if token.name in OPENING:
                outer.append(0)
            if levels > MOST_LEVELS:
                return True
    return False
