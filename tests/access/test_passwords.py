"""People change their password, and get a new one by a link that an admin hands them."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from django.core.management import call_command
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from opsconsole.access import people
from opsconsole.access.models import User
from opsconsole.access.password_links import TOKENS
from opsconsole.events.models import AuditEvent
from opsconsole.exceptions import Refused

NEW = "correct-horse-9"
TWICE = {"new_password1": NEW, "new_password2": NEW}


def signed_in(name: str, password: str = "pw") -> Client:
    client = Client()
    answer = client.post("/sign-in", {"username": name, "password": password})
    assert answer.status_code == 302
    return client


def told() -> list[str]:
    return list(AuditEvent.objects.order_by("-id").values_list("sentence", flat=True)[:2])


def test_person_changes_their_password_and_other_sessions_end(operator):
    mine, other = signed_in("operator"), signed_in("operator")
    answer = mine.post(reverse("password-change"), {"old_password": "pw"} | TWICE)
    assert (answer.status_code, answer["Location"]) == (302, "/preferences")
    assert "Your password is changed." in mine.get("/preferences").content.decode()
    assert other.get("/").status_code == 302
    assert told()[0] == "operator changed their password."
    signed_in("operator", NEW)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"old_password": "no"}, "That is not your current password."),
        ({"new_password2": "another-horse-9"}, "match"),
        ({"new_password1": "operator1", "new_password2": "operator1"}, "too similar"),
        ({"new_password1": "password123", "new_password2": "password123"}, "too common"),
    ],
)
def test_password_that_cannot_be_changed_is_refused_at_its_field(operator, given, why):
    client = signed_in("operator")
    answer = client.post(reverse("password-change"), {"old_password": "pw"} | TWICE | given)
    assert (answer.status_code, why in answer.content.decode()) == (422, True)
    operator.refresh_from_db()
    assert operator.check_password("pw")


def test_current_password_is_guessed_ten_times(operator):
    client = signed_in("operator")
    for number in range(11):
        answer = client.post(reverse("password-change"), {"old_password": "no"} | TWICE)
        assert answer.status_code == (422 if number < 10 else 429)
    assert "Too many wrong passwords." in answer.content.decode()


def link_of(client: Client, user: User) -> str:
    return link_in(client.post(reverse("person-link", args=[user.pk])))


def link_in(answer: HttpResponse) -> str:
    page = answer.content.decode()
    return page.split('translate="no">http://testserver')[1].split("<")[0]


def opened(link: str) -> tuple[Client, str]:
    """Somebody who opened it, and where they were led."""
    client = Client()
    answer = client.get(link)
    assert answer.status_code == 302
    assert link.rsplit("/", 1)[1] not in answer["Location"]
    return client, answer["Location"]


def test_link_of_an_admin_sets_a_password_once(as_role, operator):
    session = signed_in("operator")
    link = link_of(as_role("admin"), operator)
    assert "made a link with which operator can set a new password." in told()[0]
    client, page = opened(link)
    assert "You will sign in as operator." in client.get(page).content.decode()
    weak = client.post(page, {"new_password1": "1", "new_password2": "1"})
    assert weak.status_code == 422
    second = opened(link)
    answer = client.post(page, TWICE)
    assert (answer.status_code, answer["Location"]) == (302, "/sign-in")
    assert told()[0] == "operator set a new password with a link."
    assert "Your password is set. Sign in with it." in client.get("/sign-in").content.decode()
    assert session.get("/").status_code == 302
    assert second[0].post(page, TWICE | {"new_password1": "x"}).status_code == 404
    gone = Client().get(link)
    assert (gone.status_code, "Ask an admin for a new one" in gone.content.decode()) == (404, True)
    signed_in("operator", NEW)


def test_new_person_sets_their_own_password(as_role):
    given = {"username": "maja", "role": "reviewer"}
    answer = as_role("admin").post(reverse("person-add"), given)
    assert not User.objects.get(username="maja").has_usable_password()
    client, page = opened(link_in(answer))
    assert client.post(page, TWICE).status_code == 302
    signed_in("maja", NEW)


@pytest.mark.parametrize("is_known", [False, True])
def test_whoever_came_by_a_link_gets_in_after_too_many_guesses(as_role, operator, is_known):
    client = signed_in("operator") if is_known else Client()
    client.post("/sign-out")
    page = client.get(link_of(as_role("admin"), operator))["Location"]

    def sign_in(password: str) -> int:
        given = {"username": "operator", "password": password}
        return client.post("/sign-in", given).status_code

    assert [sign_in("no") for _ in range(11)] == [200] * 10 + [429]
    client.post(page, TWICE)
    assert sign_in(NEW) == 302


def test_link_is_dead_after_a_sign_in_a_day_and_a_lock_out(admin, operator, monkeypatch):
    def is_alive(link: str) -> bool:
        return Client().get(link).status_code == 302

    link = people.make_password_link(actor=admin, user=operator)
    assert is_alive(link)
    people.lock_out(actor=admin, user=operator)
    assert not is_alive(link)
    people.let_in(actor=admin, user=operator)
    assert not is_alive(link)
    link = people.make_password_link(actor=admin, user=operator)
    signed_in("operator")
    assert not is_alive(link)
    link = people.make_password_link(actor=admin, user=operator)
    later = timezone.now().replace(tzinfo=None) + timezone.timedelta(days=1, seconds=2)
    monkeypatch.setattr(TOKENS, "_now", lambda: later)
    assert not is_alive(link)


def test_link_for_somebody_locked_out_is_refused(admin, operator):
    people.lock_out(actor=admin, user=operator)
    with pytest.raises(Refused, match=r"operator may not sign in\. Enable them first."):
        people.make_password_link(actor=admin, user=operator)


@pytest.mark.parametrize("broken", ["x", "%00", "MQ", "é"])
def test_broken_link_is_told(db, broken):
    answer = Client().get(f"/sign-in/link/{broken}/{broken}")
    assert (answer.status_code, "Ask an admin" in answer.content.decode()) == (404, True)


def test_link_is_made_in_a_shell(admin, operator):
    out, at = StringIO(), ("--url", "https://ops.example/")
    with pytest.raises(SystemExit, match=r"^0$"):
        call_command("ops", "password-link", "operator", *at, "--json", stdout=out)
    link = json.loads(out.getvalue())["link"]
    assert link.startswith("https://ops.example/sign-in/link/")
    client, page = opened(link.removeprefix("https://ops.example"))
    assert client.post(page, TWICE).status_code == 302
    signed_in("operator", NEW)
