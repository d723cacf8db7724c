"""What a server says beside its answers, and who hears it."""

from __future__ import annotations

import pytest

from opsconsole.targets.notices import notices_to

RAISE = "DO $$ BEGIN RAISE {level} '{text}' USING ERRCODE = '{code}'; END $$"


def raised(level: str, text: str, code: str = "00000") -> str:
    return RAISE.format(level=level, text=text, code=code)


def test_notice_is_heard_with_its_severity_code_and_message(target):
    heard = []
    with notices_to(target, lambda *notice: heard.append(notice)):
        target.execute(raised("NOTICE", "one"))
        target.execute(raised("WARNING", "two", "01007"))
    assert heard == [("NOTICE", "00000", "one"), ("WARNING", "01007", "two")]


@pytest.mark.parametrize("encoding", ["UTF8", "LATIN1", "WIN1252"])
def test_notice_is_read_in_the_encoding_that_the_session_has_by_then(target, encoding):
    heard = []
    with notices_to(target, lambda *notice: heard.append(notice[2])):
        target.execute(f"SET client_encoding = '{encoding}'")
        target.execute("DO $$ BEGIN RAISE NOTICE '%', 'caf' || chr(233); END $$")
    assert heard == ["café"]


def test_notice_after_it_is_heard_by_who_heard_it_before(target):
    heard, before = [], []
    target.add_notice_handler(lambda notice: before.append(notice.message_primary))
    with notices_to(target, lambda *notice: heard.append(notice[2])):
        target.execute(raised("NOTICE", "within"))
    target.execute(raised("NOTICE", "after"))
    assert (heard, before) == (["within"], ["after"])


def test_statement_succeeds_though_what_hears_its_notice_fails(target, caplog):
    def fail(*_notice: str) -> None:
        raise RuntimeError("the log is full")

    with notices_to(target, fail):
        target.execute(raised("NOTICE", "one"))
    assert target.execute("SELECT 1").fetchone() == (1,)
    assert "the log is full" in caplog.text
