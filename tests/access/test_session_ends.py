"""A session ends by itself: left alone, or a working day old."""

from __future__ import annotations

import pytest
from django.contrib.sessions.models import Session

from opsconsole.access.session_ends import BEGAN, USED
from opsconsole.audit.choices import Stranger
from opsconsole.audit.models import StrangerCount

pytestmark = pytest.mark.django_db
MINUTE, HOUR = 60, 3600


def shift(client, name: str, seconds: float) -> None:
    """As if it had been so many seconds earlier."""
    session = client.session
    session[name] -= seconds
    session.save()


@pytest.mark.parametrize(
    ("name", "seconds", "said"),
    [
        (
            USED,
            2 * HOUR + 1,
            "Your session ended: it was not used for 2 h. Sign in again to go on.",
        ),
        (
            BEGAN,
            12 * HOUR + 1,
            "Your session ended 12 h after you signed in. Sign in again to go on.",
        ),
    ],
)
def test_session_that_is_over_asks_for_a_sign_in_and_is_gone(as_role, name, seconds, said):
    client = as_role("operator")
    shift(client, name, seconds)
    key = client.session.session_key
    answer = client.get("/runs")
    assert answer["Location"] == "/sign-in?next=/runs"
    assert not Session.objects.filter(pk=key).exists()
    assert said in client.get(answer["Location"]).content.decode()


@pytest.mark.parametrize(("name", "seconds"), [(USED, 2 * HOUR - MINUTE), (BEGAN, 11 * HOUR)])
def test_session_that_is_not_over_goes_on(as_role, name, seconds):
    client = as_role("operator")
    shift(client, name, seconds)
    assert client.get("/runs").status_code == 200


def test_use_is_written_once_a_minute(as_role):
    client = as_role("operator")
    client.get("/runs")
    began = client.session[USED]
    client.get("/runs")
    assert client.session[USED] == began
    shift(client, USED, 2 * MINUTE)
    client.get("/runs")
    assert client.session[USED] > began


def test_page_that_asks_by_itself_is_no_use(as_role, environment):
    client = as_role("operator")
    shift(client, USED, 2 * MINUTE)
    used = client.session[USED]
    assert client.get("/", headers={"HX-Request": "true"}).status_code == 200
    assert client.session[USED] == used
    client.get("/")
    assert client.session[USED] > used


def test_use_does_not_put_off_the_end_of_the_day(as_role):
    client = as_role("operator")
    began = client.session[BEGAN]
    shift(client, USED, HOUR)
    client.get("/runs")
    assert client.session[BEGAN] == began


def test_session_of_an_earlier_version_begins_now(as_role):
    client = as_role("operator")
    session = client.session
    del session[BEGAN], session[USED]
    session.save()
    assert client.get("/runs").status_code == 200
    assert {BEGAN, USED} <= set(client.session.keys())


def test_act_after_the_end_changes_nothing(as_role, environment):
    client = as_role("operator")
    shift(client, USED, 3 * HOUR)
    assert client.post("/preferences", {"theme": "dark"})["Location"].startswith("/sign-in")


def test_open_page_that_asks_after_the_end_becomes_the_sign_in_and_leads_back(as_role):
    client = as_role("operator")
    shift(client, USED, 3 * HOUR)
    of_a_page = {"HX-Request": "true", "HX-Current-URL": "http://testserver/runs?kind=migrate"}
    answer = client.get("/", headers=of_a_page)
    assert answer.status_code == 401
    assert answer["HX-Redirect"] == "/sign-in?next=%2Fruns%3Fkind%3Dmigrate"
    assert "it was not used for 2 h" in client.get("/sign-in").content.decode()


def test_part_of_a_page_that_a_stranger_asks_for_is_counted(client):
    client.get("/runs", headers={"HX-Request": "true", "HX-Current-URL": "https://evil.example/"})
    assert StrangerCount.objects.get().kind == Stranger.SIGNED_OUT
