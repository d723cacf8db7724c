"""What a run says, made lines that may be stored: redacted, split, cleaned, a chunk at a time."""

from __future__ import annotations

from collections.abc import Collection

from opsconsole.formats import size
from opsconsole.redaction import redact

# Seconds since the epoch, tone, text.
Line = tuple[float, str, str]
MAX_LINE_BYTES = 16 * 1024
MAX_CHARACTER_BYTES = 4
# So many characters are few enough, whatever they are.
SHORT_LINE = MAX_LINE_BYTES // MAX_CHARACTER_BYTES


def lines_of(said: list[Line], secrets: Collection[str]) -> list[Line]:
    """The lines of what was said, in order; a text without one is an empty line.

    A secret split by nothing but us is caught: each text is redacted before it is split.
    """
    texts = [text for _at, _tone, text in said]
    # Nearly always there is nothing to do, and one look at all of them is enough to know.
    whole = "".join(texts)
    if (
        whole.isprintable()
        and max(map(len, texts), default=0) <= SHORT_LINE
        and not any(secret and secret in whole for secret in secrets)
    ):
        return said
    return [
        (at, tone, _clean(line, secrets))
        for at, tone, text in said
        for line in redact(text, secrets).splitlines() or [""]
    ]


def _clean(line: str, secrets: Collection[str]) -> str:
    """A secret with a control character within is one only when that is gone."""
    cleaned = clean_line(line)
    return cleaned if cleaned == line else redact(cleaned, secrets)


def clean_line(text: str) -> str:
    """Drop NUL and control characters, and what exceeds 16 KiB, saying so."""
    if not text.isprintable():
        text = "".join(c for c in text if c == "\t" or c.isprintable())
    if len(text) <= SHORT_LINE:
        return text
    encoded = text.encode(errors="replace")
    if len(encoded) <= MAX_LINE_BYTES:
        return text
    kept = encoded[:MAX_LINE_BYTES].decode(errors="ignore")
    return f"{kept} … ({size(len(encoded) - MAX_LINE_BYTES)} cut)"
