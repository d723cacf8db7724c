"""Sizes, durations and counts as people read them, also where rounding reaches the next unit."""

from __future__ import annotations

import pytest

from opsconsole.formats import count, counted, duration, one_line, size


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (12_345, "12.3 kB"),
        (949_000, "949 kB"),
        (999_949, "999.9 kB"),
        (999_951, "1 MB"),
        (41_200_000, "41.2 MB"),
        (2_123_000_000, "2.1 GB"),
        (4_567_800_000_000, "4.6 TB"),
        (4_567_800_000_000_000, "4,567.8 TB"),
    ],
)
def test_size_has_the_unit_that_makes_it_short(amount, text):
    assert size(amount) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.12, "120 ms"),
        (0.9996, "1 s"),
        (2, "2 s"),
        (2.14, "2.1 s"),
        (9.96, "10 s"),
        (38.2, "38 s"),
        (59.7, "1 min"),
        (72, "1 min 12 s"),
        (300, "5 min"),
        (3599.8, "1 h"),
        (7500, "2 h 5 min"),
        (7200, "2 h"),
        (3_600_000, "1,000 h"),
    ],
)
def test_duration_shows_no_full_unit_of_the_next_and_no_zero(seconds, text):
    assert duration(seconds) == text


def test_count_is_grouped():
    assert count(48_533) == "48,533"


@pytest.mark.parametrize(
    ("number", "words", "text"),
    [
        (0, ["row"], "0 rows"),
        (1, ["row"], "1 row"),
        (48_533, ["row"], "48,533 rows"),
        (1, ["index", "indexes"], "1 index"),
        (2, ["index", "indexes"], "2 indexes"),
    ],
)
def test_counted_has_the_plural_of_every_number_but_one(number, words, text):
    assert counted(number, *words) == text


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("plain", "plain"),
        (" two\r\n\tlines ", "two lines"),
        ("a\x00\x07b", "ab"),
        ("\x1b[1;31mred\x1b[0m \x1b]8;;http://x\x07link\x1b]8;;\x1b\\", "red link"),
        ("\u202eabc\u2066\u200f", "abc"),
        ("half \ud800 pair", "half pair"),
        ("é 漢 👍", "é 漢 👍"),
        ("x" * 11, "xxxxxxxxx…"),
        ("\x00" * 1_000_000, "…"),
    ],
)
def test_one_line_is_printable_and_short(given, line):
    assert one_line(given, 10) == line
