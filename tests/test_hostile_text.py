"""What files and servers of others say: kept, shown and printed without being obeyed."""

from __future__ import annotations

import csv
import io
import os
import re

import pytest
from django.core.management import call_command
from django.test import Client
from psycopg import sql

from migrations_app.engines.dbmate import DbmateEngine
from migrations_app.reading.readings import Reading
from opsconsole.exceptions import AdapterError
from opsconsole.formats import visible
from opsconsole.runs.choices import RunStatus
from opsconsole.sentences import say
from tests.conftest import log_of, url
from tests.worker import observe_target

ANSI, TITLE, TURN = "\x1b[31mred", "\x1b]0;title\x07", "a\u202eb\u2066c"
NAME = f"20260101000000_{ANSI}{TURN}"
TABLE, COLUMN = f"t{ANSI}{TURN}\n<b>", f"c{TITLE}{TURN}'\""
OBEYED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# As a server says them; each is followed by a line of its own.
SAID = {
    "escapes": f"'{ANSI}{TITLE}'",
    "direction": f"'{TURN}'",
    "one megabyte": "repeat('x', 1000000)",
    "brackets": "repeat('[', 60000)",
    "lines": "E'one\\r\\ntwo\\rthree'",
    "a line of the console": "E'\\n12:00:00.000 migrate: 9 of 9 applied'",
}


@pytest.mark.fast
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", "a[U+001B][31mb"),
        ("a\u202eb", "a[U+202E]b"),
        ("a\rb\r\nc\td", "a[U+000D]b\r\nc\td"),
        ("\x9b31m\x7f\0", "[U+009B]31m[U+007F][U+0000]"),
        ("é \u200f 🙂", "é \u200f 🙂"),
    ],
)
def test_what_is_not_seen_is_written_out(text, shown):
    assert visible(text) == shown


@pytest.mark.fast
def test_message_of_an_error_can_be_stored_whatever_was_said():
    plain = AdapterError("a\0b\ud800" + "x" * 1_000_000)
    assert plain.text.startswith("ab?x")
    assert len(plain.text) == 9_999
    assert str(AdapterError(say("it said %(what)s", what="a\0b")).text) == "it said ab"


FAILS = "DO $do$ BEGIN RAISE EXCEPTION '%', concat({}); END $do$;\n".format(
    ", ".join(SAID.values())
)


def hostile_script() -> str:
    notices = "".join(
        f"RAISE NOTICE '%', {text};\n RAISE NOTICE 'after {name}';\n" for name, text in SAID.items()
    )
    made = sql.SQL("CREATE TABLE {} ({} int);\n").format(
        sql.Identifier(TABLE), sql.Identifier(COLUMN)
    )
    return f"-- {TURN}{ANSI}\n{made.as_string()}DO $do$ BEGIN\n{notices}END $do$;\n"


def printed(*words: str) -> str:
    out, err = io.StringIO(), io.StringIO()
    with pytest.raises(SystemExit):
        call_command("ops", *words, stdout=out, stderr=err)
    return out.getvalue() + err.getvalue()


def everywhere(client: Client, environment, run) -> dict[str, str]:
    """Every page, export and command that shows what the run and its environment are about."""
    pages = {
        "run": run.get_absolute_url(),
        "log": f"{run.get_absolute_url()}/log.txt",
        "environment": environment.get_absolute_url(),
        "board": environment.application.get_absolute_url(),
        "migration": url(environment, "migration", NAME),
        "audit": "/audit",
        "audit.csv": "/audit.csv",
        "find": "/find?q=2026",
        "home": "/",
    }
    found = {}
    for name, address in pages.items():
        answer = client.get(address)
        assert (name, answer.status_code) == (name, 200)
        found[name] = answer.getvalue().decode()
    commands = {
        "ops run": ("run", str(run.pk)), "ops log": ("run", str(run.pk), "--log"),
        "ops runs": ("runs",), "ops audit": ("audit",), "ops environments": ("environments",),
        "ops json": ("run", str(run.pk), "--log", "--json"),
    }  # fmt: skip
    return found | {name: printed(*words) for name, words in commands.items()}


def test_hostile_names_and_notices_cost_no_line_and_reach_no_terminal(
    migrate, environment, folder, as_role, admin, target
):
    folder.add(NAME, hostile_script())
    run = migrate(reason=f"why {TURN}")
    assert (run.status, run.applied) == (RunStatus.SUCCEEDED, [NAME])
    log = log_of(run)
    assert [name for name in SAID if f"after {name}" not in log] == []
    assert max(map(len, log.splitlines())) < 20_000

    client = as_role("admin")
    shown = everywhere(client, environment, run)
    assert {name for name, text in shown.items() if OBEYED.search(text)} == set()
    for name in ("environment", "board", "migration"):
        assert "[U+202E]" in shown[name], name
    rows = list(csv.reader(io.StringIO(shown["audit.csv"])))
    assert {len(row) for row in rows} == {12}
    assert f"why {visible(TURN)}" in {row[8] for row in rows}

    folder.add(f"{NAME}2", FAILS)
    failed = migrate()
    assert failed.status == RunStatus.FAILED
    assert len(failed.summary) < 20_000
    page = client.get(failed.get_absolute_url())
    assert (page.status_code, OBEYED.search(page.content.decode())) == (200, None)
    assert not OBEYED.search(printed("run", str(failed.pk), "--log"))


def test_name_that_is_no_text_is_named_and_costs_no_other(environment, folder):
    os.mkdir(os.path.join(os.fsencode(folder.path), b"20260102000000_\xff"))
    state = observe_target(environment.targets.get())
    assert (state.error, len(state.seen.migrations)) == ("", 1)
    assert state.data["refusals"] == ["20260102000000_?: its name is not UTF-8 text"]


@pytest.mark.fast
def test_name_that_is_no_text_is_named_for_dbmate(tmp_path):
    for name in (b"1_\xff.sql", b"2_good.sql"):
        with open(os.path.join(os.fsencode(tmp_path), name), "w") as file:
            file.write("-- migrate:up\nSELECT 1;\n-- migrate:down\n")
    found = DbmateEngine(tmp_path).read_folder()
    assert ([s.name for s in found.scripts], found.problems) == (
        ["2_good"],
        ["1_?: its name is not UTF-8 text"],
    )


def test_reading_that_cannot_be_stored_is_told(environment, monkeypatch):
    monkeypatch.setattr(Reading, "stored", lambda _self: {"a": "\ud800"})
    state = observe_target(environment.targets.get())
    assert state.error.startswith("the reading crashed: DataError: invalid input syntax")
