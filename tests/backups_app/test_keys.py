"""The one spelling of a key: what is let through, and that nothing else names the same object."""

from __future__ import annotations

import posixpath
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backups_app.exceptions import BadKey
from backups_app.stores.kinds import canonical_key

PIECES = st.sampled_from(
    ["a", "b", "é", "a.dump", "...", " ", ".", "..", "", "\\", "\0", "\n", "\x85"]
)
SPELLINGS = st.one_of(st.text(max_size=12), st.lists(PIECES, min_size=1, max_size=5).map("/".join))


def canonical(text: str) -> bool:
    try:
        assert canonical_key(text) == text
    except BadKey:
        return False
    return True


@given(SPELLINGS)
@example("shop/production/a.dump")
def test_canonical_key_is_a_plain_relative_path(text):
    if canonical(text):
        assert posixpath.normpath(text) == text
        assert not text.startswith(("/", "../"))
        assert text not in {"", ".", ".."}
        assert "\\" not in text
        assert not any(unicodedata.category(character) in {"Cc", "Cs"} for character in text)


@given(SPELLINGS, SPELLINGS)
def test_two_canonical_keys_never_lead_to_one_file(one, other):
    if one != other and canonical(one) and canonical(other):
        assert posixpath.normpath(f"/root/{one}") != posixpath.normpath(f"/root/{other}")


@given(
    st.lists(
        st.from_regex(r"[a-z0-9]([a-zA-Z0-9._ é-]*[a-z0-9])?", fullmatch=True),
        min_size=1,
        max_size=5,
    )
)
def test_ordinary_paths_are_let_through(folders):
    assert canonical("/".join(folders))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Give the archive's path"),
        ("/a", "no / at its beginning"),
        ("a//b", "never two together"),
        ("./a", "called . or .."),
        ("a/../b", "called . or .."),
        ("a\\b", "with / between them"),
        ("a\0b", "no control characters"),
        ("a\x7fb", "no control characters"),
        ("a\ud800b", "no control characters"),
    ],
)
def test_refusal_says_what_is_wrong(text, said):
    with pytest.raises(BadKey, match=said):
        canonical_key(text)
