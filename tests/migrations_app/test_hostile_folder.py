"""A migrations folder that anybody may have written to: a clear error, or handled as it is."""

from __future__ import annotations

import os

import psycopg
import pytest

from migrations_app.services.migrations import current_plan
from opsconsole.exceptions import Refused
from opsconsole.runs.choices import RunStatus
from tests.conftest import log_of
from tests.worker import observe_target

NAME = "20260101000000_odd"


def link_out(file) -> None:
    secret = file.parents[4] / "outside.sql"
    secret.write_text("SELECT 'outside'")
    file.unlink()
    file.symlink_to(secret)


def folder_linked_out(file) -> None:
    outside = file.parents[4] / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "migration.sql").write_text("SELECT 'outside'")
    file.unlink()
    file.parent.rmdir()
    file.parent.symlink_to(outside)


def link_to_itself(file) -> None:
    file.unlink()
    file.symlink_to(file)


def pipe(file) -> None:
    file.unlink()
    os.mkfifo(file)


def a_hundred_megabytes(file) -> None:
    os.truncate(file, 100_000_000)


def not_utf8(file) -> None:
    file.write_bytes(b"SELECT '\xff'")


def with_nul(file) -> None:
    file.write_bytes(b"SELECT 1;\nSELECT '\x00'")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (link_out, "is a link that leads out of the migrations folder"),
        (folder_linked_out, "is a link that leads out of the migrations folder"),
        (link_to_itself, "is a link that leads to itself"),
        (pipe, "is not a regular file"),
        (a_hundred_megabytes, "is 100 MB; scripts of up to 8 MB are read"),
        (not_utf8, "is not UTF-8 at byte 8"),
        (with_nul, "holds a NUL byte at line 2"),
    ],
)
def test_file_that_must_not_be_read_stops_the_plan_and_is_named(
    environment, folder, as_role, spoil, said
):
    spoil(folder.add(NAME, "SELECT 1"))
    state = observe_target(environment.targets.get())

    assert state.error == ""
    assert state.data["refusals"][0].startswith(f"{NAME}/migration.sql {said}")
    assert "outside" not in str(state.data["migrations"])
    with pytest.raises(Refused, match=said):
        current_plan(environment.targets.get())
    assert said in as_role("viewer").get("/applications/shop/staging").content.decode()


def test_notice_with_markup_and_escapes_is_text_in_log_and_page(migrate, folder, as_role):
    folder.add(
        NAME,
        "CREATE TABLE noted (id int);\n"
        "DO $x$ BEGIN RAISE NOTICE E'\\033[31m<b>bold</b>\\007 a%', 'b'; END $x$;\n",
    )
    run = migrate()
    assert run.status == RunStatus.SUCCEEDED, run.summary
    log = log_of(run)
    assert "<b>bold</b> ab" in log
    assert "\x1b" not in log
    assert "\x07" not in log
    page = as_role("viewer").get(run.get_absolute_url()).content.decode()
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    assert "<b>bold" not in page


def test_nested_dollar_quotes_are_one_statement_and_run_as_shown(migrate, folder, target):
    body = (
        "CREATE FUNCTION nested() RETURNS text LANGUAGE plpgsql AS $outer$\n"
        "DECLARE t text := $inner$; DROP TABLE users; $inner$;\n"
        "BEGIN RETURN t || ';'; END $outer$;\n"
        "CREATE TABLE after_it (id int);\n"
    )
    folder.add(NAME, body)
    run = migrate()
    assert run.status == RunStatus.SUCCEEDED, run.summary
    assert target.execute("SELECT nested()").fetchone() == ("; DROP TABLE users; ;",)
    assert target.execute("SELECT count(*) FROM after_it").fetchone() == (0,)


def test_two_thousand_statements_apply_in_order_at_once(migrate, folder, target):
    folder.add(NAME, "".join(f"INSERT INTO users (name) VALUES ('n{n}');\n" for n in range(2000)))
    run = migrate()
    assert run.status == RunStatus.SUCCEEDED, run.summary
    rows = target.execute("SELECT name FROM users WHERE name LIKE 'n%' ORDER BY id").fetchall()
    assert rows == [(f"n{n}",) for n in range(2000)]


def test_state_is_read_while_somebody_holds_a_table_exclusively(environment, folder, target):
    folder.add(NAME, "ALTER TABLE users ADD COLUMN added int; ALTER TABLE targets DROP amount;")
    with target.transaction():
        target.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        state = observe_target(environment.targets.get())
    assert (state.error, state.pending) == ("", [NAME])


def test_refresh_sends_two_queries_and_a_third_for_what_is_pending(
    environment, folder, monkeypatch
):
    sent: list[str] = []
    original = psycopg.Cursor.execute

    def note(cursor, query, *args, **kwargs):
        if "opsconsole:observe" in cursor.connection.info.dsn:
            sent.append(str(query))
        return original(cursor, query, *args, **kwargs)

    observe_target(environment.targets.get())
    monkeypatch.setattr(psycopg.Cursor, "execute", note)
    assert observe_target(environment.targets.get()).error == ""
    # Two prepare the sessions: in the target, and in its maintenance database.
    assert len(sent) == 2 + 2

    sent.clear()
    folder.add(NAME, "ALTER TABLE users ADD COLUMN added int")
    assert observe_target(environment.targets.get()).pending == [NAME]
    assert len(sent) == 2 + 3
