"""Passwords are guessed a few times an hour, and nobody is kept out of a device they know."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import suppress
from datetime import timedelta

import pytest
from django.contrib.auth import authenticate
from django.contrib.auth.base_user import AbstractBaseUser
from django.core import signing
from django.db import connection
from django.db.models import F, Func, Value
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext

from opsconsole.access import people
from opsconsole.access.devices import SALT
from opsconsole.access.guessing import MOST, forget_old_guesses, take_guess
from opsconsole.access.models import RecentGuesses, User
from opsconsole.events.models import AuditEvent
from opsconsole.exceptions import Refused
from tests.threads import at_once


def sign_in(client: Client, name: str, password: str, **extra: str) -> int:
    answer = client.post("/sign-in", {"username": name, "password": password}, **extra)
    client.cookies.pop("sessionid", None)
    return answer.status_code


def an_hour_passes() -> None:
    later = Func(
        F("at"), template="ARRAY(SELECT t - interval '61 minutes' FROM unnest(%(expressions)s) t)"
    )
    RecentGuesses.objects.update(at=later, told_at=F("told_at") - Value(timedelta(minutes=61)))


@pytest.fixture
def stubbed_hash(monkeypatch) -> Counter[str]:
    """How often the password of each name was looked at; only "right" is one."""
    looked: Counter[str] = Counter()

    def check(self, password: str) -> bool:
        looked[self.username] += 1
        return password == "right"

    monkeypatch.setattr(AbstractBaseUser, "check_password", check)
    monkeypatch.setattr(User, "set_password", lambda self, _password: None)
    return looked


@pytest.mark.parametrize(
    ("guesses", "names", "addresses"),
    [(200, 4, 5), pytest.param(20_000, 200, 50, marks=pytest.mark.long)],
)
def test_many_guesses_reach_no_hash_and_owners_get_in_meanwhile(
    db, stubbed_hash, guesses, names, addresses
):
    users = [User.objects.create_user(f"user{n}") for n in range(names)]
    owners = {user.username: Client() for user in users}
    assert {sign_in(client, name, "right") for name, client in owners.items()} == {302}
    stubbed_hash.clear()
    chance = random.Random(1)
    for number in range(guesses):
        request = RequestFactory(REMOTE_ADDR=f"192.0.2.{chance.randrange(addresses)}").post("/")
        with suppress(Refused):
            assert not authenticate(request, username=chance.choice(users).username, password="x")
        if number % 20 == 0:
            name = chance.choice(users).username
            assert sign_in(owners[name], name, "right") == 302
            stubbed_hash[name] -= 1
    assert max(stubbed_hash.values()) <= 10
    assert 10 * min(names, MOST["anybody"] // 10) == stubbed_hash.total()
    told = Counter(
        AuditEvent.objects.filter(action="person.guessing_stopped").values_list(
            "details__guesser", flat=True
        )
    )
    assert told == ({"name": names} if names < 50 else {"anybody": 1})


@pytest.mark.django_db(transaction=True)
def test_guesses_at_the_same_moment_are_counted_each(person):
    person("viewer", "maja")
    guess = [lambda: take_guess(name="maja", address="192.0.2.1")] * 20
    refusals = at_once(*guess)
    assert [type(one) for one in refusals] == [Refused] * 10
    assert AuditEvent.objects.filter(action="person.guessing_stopped").count() == 1


def test_owner_is_refused_on_a_new_device_only_and_told_what_to_do(client, operator):
    known = Client()
    assert sign_in(known, "operator", "pw") == 302
    assert [sign_in(client, "operator", f"no {n}") for n in range(11)] == [200] * 10 + [429]
    answer = client.post("/sign-in", {"username": "operator", "password": "pw"})
    assert answer.status_code == 429
    page = answer.content.decode()
    assert "Too many wrong passwords. Wait 60 minutes, sign in on a device" in page
    assert 'value="operator"' in page
    assert sign_in(known, "operator", "pw") == 302
    an_hour_passes()
    assert sign_in(client, "operator", "pw") == 302


def test_known_device_has_ten_guesses_of_its_own(operator):
    known = Client()
    assert sign_in(known, "operator", "pw") == 302
    assert [sign_in(known, "operator", "no") for _ in range(11)] == [200] * 10 + [429]
    page = known.post("/sign-in", {"username": "operator", "password": "pw"}).content.decode()
    assert "Wait 60 minutes, or ask an admin for a link to set a new one." in page
    assert sign_in(Client(), "operator", "pw") == 302


def test_name_in_another_case_is_the_same_and_one_of_nobody_is_no_other(client, operator):
    spellings = ["operator", "OPERATOR", "Operator", "ｏperator"]
    tries = [sign_in(client, spellings[n % 4], "no") for n in range(11)]
    assert tries == [200] * 10 + [429]
    assert [sign_in(client, "nobody", "no") for n in range(11)] == [200] * 10 + [429]


def test_right_passwords_are_not_counted(client, operator):
    assert {sign_in(Client(), "operator", "pw") for _ in range(15)} == {302}
    assert list(RecentGuesses.objects.exclude(at=[])) == []


def test_one_address_guesses_at_fifty_names(client, operator):
    def guess(number: int, address: str) -> int:
        return sign_in(client, f"user{number}", "no", REMOTE_ADDR=address)

    assert {guess(n, "192.0.2.1") for n in range(50)} == {200}
    assert (guess(50, "192.0.2.1"), guess(50, "192.0.2.2")) == (429, 200)


def test_device_of_somebody_else_or_of_ended_sessions_is_not_known(client, operator, admin):
    assert sign_in(client, "admin", "pw") == 302
    assert [sign_in(Client(), "operator", "no") for _ in range(10)] == [200] * 10
    assert sign_in(client, "operator", "pw") == 429
    for _ in range(10):
        assert sign_in(Client(), "admin", "no") == 200
    assert sign_in(client, "admin", "pw") == 302
    User.objects.filter(pk=admin.pk).update(session_generation=1)
    assert sign_in(client, "admin", "pw") == 429


def test_people_who_share_a_device_are_each_known_on_it(client, operator, admin):
    assert (sign_in(client, "operator", "pw"), sign_in(client, "admin", "pw")) == (302, 302)
    for name in ("operator", "admin"):
        for _ in range(11):
            stopped = sign_in(Client(), name, "no")
        assert stopped == 429
    assert (sign_in(client, "operator", "pw"), sign_in(client, "admin", "pw")) == (302, 302)


def test_cookie_of_one_person_is_none_of_another(client, operator, admin):
    assert sign_in(client, "admin", "pw") == 302
    client.cookies[f"known_device_{operator.pk}"] = client.cookies[f"known_device_{admin.pk}"].value
    for _ in range(10):
        sign_in(Client(), "operator", "no")
    assert sign_in(client, "operator", "pw") == 429


def test_forged_device_is_not_known(client, operator):
    for _ in range(10):
        sign_in(client, "operator", "no")
    for forged in (
        "",
        "x",
        "a:b:c",
        "é",
        signing.dumps([operator.pk, 0, "d"], salt="x"),
        signing.dumps(7, salt=SALT),
    ):
        client.cookies[f"known_device_{operator.pk}"] = forged
        assert sign_in(client, "operator", "pw") == 429


def test_stopped_guessing_is_told_once_an_hour_with_the_address(client, operator):
    for _ in range(15):
        sign_in(client, "operator", "no")
    (event,) = AuditEvent.objects.filter(action="person.guessing_stopped")
    assert (event.ip, event.sentence) == (
        "127.0.0.1",
        "10 passwords were guessed within an hour for one name, the last as operator. "
        "More are refused.",
    )
    assert AuditEvent.objects.filter(action="person.sign_in_failed").count() == 10
    an_hour_passes()
    for _ in range(15):
        sign_in(client, "operator", "no")
    assert AuditEvent.objects.filter(action="person.guessing_stopped").count() == 2


def test_what_counts_no_more_is_forgotten(client, operator):
    sign_in(client, "operator", "pw")
    sign_in(Client(), "operator", "no")
    forget_old_guesses()
    assert RecentGuesses.objects.count() == 3
    an_hour_passes()
    forget_old_guesses()
    assert not RecentGuesses.objects.exists()


def test_refusal_looks_at_no_person(client, operator):
    """It costs no hash, and the same for a name that nobody bears."""
    asked = []
    for name in ("operator", "nobody"):
        for _ in range(10):
            sign_in(client, name, "no")
        sign_in(client, name, "no")
        with CaptureQueriesContext(connection) as queries:
            sign_in(client, name, "no")
        asked.append(len(queries))
    assert asked[0] == asked[1]


def test_locked_out_person_is_refused_with_the_right_password(client, operator, admin):
    people.lock_out(actor=admin, user=operator)
    assert sign_in(client, "operator", "pw") == 200
