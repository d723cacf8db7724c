"""The catalogue of events, what is recorded of them, and how rows of any age are told."""

from __future__ import annotations

import gzip
import re
from dataclasses import replace
from pathlib import Path

import pytest
from django.db import connection
from django.utils import translation
from django.utils.functional import lazy

from opsconsole.access import events as access
from opsconsole.events import recording
from opsconsole.events.catalogue import CATALOGUE, Changed, NoData, event
from opsconsole.events.models import AuditEvent
from opsconsole.events.recording import record, subscribe
from opsconsole.exceptions import Refused
from opsconsole.runs import events as runs

DUMP = Path(__file__).parents[1] / "upgrade" / "console_0.1.sql.gz"
NAMES = {"actor": "ada", "object": "Shop", "environment": "Shop staging", "run": 7}


@pytest.fixture
def listeners(monkeypatch):
    monkeypatch.setattr(recording, "LISTENERS", [])


@pytest.mark.parametrize("event", CATALOGUE.values(), ids=str)
def test_sentence_of_each_event_is_told_with_the_example_of_its_data(event):
    told = event.told(NAMES, event.data.example().stored())
    assert told.endswith(".")
    assert "…" not in told


@pytest.mark.parametrize("event", CATALOGUE.values(), ids=str)
def test_example_of_each_event_is_stored_and_read_again(event):
    example = event.data.example()
    assert event.data.model_validate(example.stored()) == example


def test_key_that_is_taken_is_refused():
    with pytest.raises(ValueError, match=r"run\.ended is declared twice"):
        event("run.ended", "again", data=NoData)


@pytest.fixture
def signed_in(monkeypatch):
    """The event of signing in, whose sentence names the language that it is told in."""
    sentence = lazy(lambda: f"%(actor)s signed in ({translation.get_language()}).", str)()
    spoken = replace(access.SIGNED_IN, sentence=sentence)
    monkeypatch.setitem(CATALOGUE, spoken.key, spoken)
    return spoken


@pytest.mark.django_db
def test_row_keeps_the_english_sentence_and_is_told_in_the_readers_language(operator, signed_in):
    with translation.override("de"):
        row = record(signed_in, actor=operator)
        assert row.told == "operator signed in (de)."
    row.refresh_from_db()
    assert row.sentence == "operator signed in (en)."


@pytest.mark.django_db
def test_row_is_told_in_english_as_it_was_said_then(operator, signed_in, monkeypatch):
    row = record(signed_in, actor=operator)
    monkeypatch.setitem(CATALOGUE, signed_in.key, replace(signed_in, sentence="%(actor)s came."))
    with translation.override("en-us"):
        assert row.told == "operator signed in (en)."
    with translation.override("de"):
        assert row.told == "operator came."


@pytest.mark.django_db
def test_details_keep_only_what_was_set():
    details = {"before": {"name": "A"}, "after": {"name": "B"}}
    row = record(access.SIGN_IN_FAILED, actor=None, data=access.SignInFailed(username="x"))
    assert row.details == {"username": "x"}
    assert Changed(**details).stored() == details
    assert runs.RunDecided(status="failed").stored() == {"status": "failed"}


@pytest.mark.django_db(transaction=True)
def test_event_outside_of_a_transaction_is_refused():
    with pytest.raises(RuntimeError, match=r"person\.signed_out is recorded outside"):
        record(access.SIGNED_OUT, actor=None)
    assert not AuditEvent.objects.exists()


@pytest.mark.django_db
def test_listeners_are_told_of_each_row_in_the_order_of_subscription(listeners):
    told = []
    subscribe(lambda event, row: told.append(("one", event, row.pk)))
    subscribe(lambda event, row: told.append(("two", event, row.pk)))
    row = record(access.SIGNED_OUT, actor=None)
    assert told == [("one", access.SIGNED_OUT, row.pk), ("two", access.SIGNED_OUT, row.pk)]


@pytest.mark.django_db(transaction=True)
def test_listener_that_raises_rolls_the_act_back(listeners, client, operator):
    def refuse(event, row):
        raise Refused("not now")

    subscribe(refuse)
    client.post("/sign-in", {"username": "operator", "password": "pw"})
    operator.refresh_from_db()
    assert operator.last_login is None
    assert not AuditEvent.objects.exists()
    assert client.get("/").status_code == 302


@pytest.mark.django_db
def test_every_row_of_an_old_database_is_told_by_its_sentence():
    """The column that the table has gained since is its last, and not in the dump."""
    dump = gzip.decompress(DUMP.read_bytes()).decode()
    found = re.search(r"INSERT INTO public\.opsconsole_auditevent VALUES\n.*?\);\n", dump, re.S)
    with connection.cursor() as cursor:
        cursor.execute(found[0])
    rows = AuditEvent.objects.select_related("environment__application")
    assert len(rows) > 100
    assert [row.action for row in rows if row.action not in CATALOGUE] == []
    told = {row.told for row in rows}
    assert [sentence for sentence in told if "None" in sentence] == []
    assert told >= {
        "Run 21 ended: needs a decision.",
        "The console requested run 19 (back up).",
        "admin granted a role: maja is operator of Sales Commission.",
        "admin tested the connection to ….",
        "somebody who is gone requested run 99999 (…).",
    }


def test_details_of_another_shape_fill_what_they_can():
    deleted = CATALOGUE["backup.copy_deleted"]
    told = deleted.told(NAMES, {"storage": "s3://bucket"})
    assert told == "ada deleted the copy of Shop in s3://bucket."
    assert deleted.told(NAMES, {"key": 3}) == "ada deleted the copy of Shop in …."


@pytest.mark.django_db
def test_row_that_this_version_does_not_know_shows_its_key():
    row = AuditEvent.objects.create(
        action="tape.rewound", actor_label="ada", actor_kind="user", app_version="9"
    )
    assert row.told == "tape.rewound by ada"
    row.sentence = "ada rewound the tape."
    with translation.override("de"):
        assert row.told == "ada rewound the tape."


def test_look_of_what_failed_is_bad_whatever_the_event():
    done = AuditEvent(action="run.ended", outcome="ok")
    failed = AuditEvent(action="run.ended", outcome="error")
    assert (done.look, failed.look) == (("info", "circle-dot"), ("bad", "circle-x"))
