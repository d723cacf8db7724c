"""Secrets kept out of what is written down."""

from __future__ import annotations

import re
from collections.abc import Iterable

REDACTED = "•••"
SHORTEST_SECRET, LONGEST_WORD = 6, 12
IN_ITS_PLACE = r"(?i:((?:://[^\s/:@]*:|passw(?:or)?d\W{{1,4}}|PGPASSWORD=\W?)))(?-i:{})(?!\w)"


def redact(text: str, secrets: Iterable[str]) -> str:
    """Replace every secret by dots, the longest first.

    One that could be a word of the log (`public`, `x`) hides no word: it is replaced only where a
    password stands, in an address or after `password`.
    """
    # Nearly every line holds none of them, and a run may print millions.
    present = [secret for secret in secrets if secret and secret in text]
    for secret in sorted(present, key=len, reverse=True):
        if is_wordlike(secret):
            text = re.sub(IN_ITS_PLACE.format(re.escape(secret)), rf"\1{REDACTED}", text)
        else:
            text = text.replace(secret, REDACTED)
    return text


def is_wordlike(secret: str) -> bool:
    """Whether it is so short or plain that a log is likely to hold it by chance."""
    return len(secret) < SHORTEST_SECRET or (secret.isalpha() and len(secret) <= LONGEST_WORD)
