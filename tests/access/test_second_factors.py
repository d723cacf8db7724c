"""Second factors: who has one is asked for it, and nobody else gets past."""

from __future__ import annotations

import time
from io import StringIO

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import format_hotp_value, hotp_value
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

from opsconsole.access.choices import Factor
from opsconsole.access.models import User
from opsconsole.events import recording
from opsconsole.events.models import AuditEvent
from opsconsole.exceptions import Refused
from tests.access.test_sudo import TEN_MINUTES, signed_in_ago

# JSON that Python does not read.
MANY_DIGITS, TOO_DEEP = "9" * 5000, "[" * 3000
PASSWORD = "correct horse battery staple"


@pytest.fixture
def maja(person) -> User:
    user = person("operator", "maja")
    user.set_password(PASSWORD)
    user.save()
    return user


def sign_in(client: Client, password: str = PASSWORD, name: str = "maja"):
    return client.post("/sign-in", {"username": name, "password": password})


def is_signed_in(client: Client) -> bool:
    return client.get("/").status_code == 200


def code_of(secret: str, steps: int = 0) -> str:
    return format_hotp_value(hotp_value(secret, int(time.time()) // 30 + steps))


def wrong(secret: str) -> str:
    right = {code_of(secret, steps) for steps in (-2, -1, 0, 1, 2)}
    return next(
        code
        for code in ("000000", "111111", "222222", "333333", "444444", "555555")
        if code not in right
    )


@pytest.fixture
def secret(client, maja) -> str:
    """The key of maja's app, which they added themselves; nobody is signed in after that."""
    sign_in(client)
    page = client.get("/preferences/factors/app")
    secret = page.context["form"].secret
    answer = client.post("/preferences/factors/app", {"code": code_of(secret)})
    assert answer["Location"] == "/preferences/factors/codes"
    client.post("/sign-out")
    return secret


def codes_of(user: User) -> list[str]:
    return Authenticator.objects.get(user=user, type=Factor.CODES).wrap().get_unused_codes()


def said(action: str) -> list[str]:
    return list(AuditEvent.objects.filter(action=action).values_list("sentence", flat=True))


def test_person_without_a_factor_is_signed_in_by_the_password(client, maja):
    assert sign_in(client)["Location"] == "/"
    assert is_signed_in(client)


def test_password_alone_signs_nobody_in_who_has_an_app(client, secret):
    answer = sign_in(client)
    assert answer["Location"] == "/sign-in/code"
    assert not is_signed_in(client)
    assert "known_device" not in str(answer.cookies)
    assert len(said("person.signed_in")) == 1


def test_code_of_the_app_signs_in_and_leads_where_one_wanted(client, maja, secret):
    client.post("/sign-in", {"username": "maja", "password": PASSWORD, "next": "/runs"})
    answer = client.post("/sign-in/code", {"code": code_of(secret, 1)})
    assert answer["Location"] == "/runs"
    assert is_signed_in(client)
    assert f"known_device_{maja.pk}" in answer.cookies
    assert len(said("person.signed_in")) == 2


def test_wrong_code_is_refused_with_the_form_and_told(client, secret):
    sign_in(client)
    answer = client.post("/sign-in/code", {"code": wrong(secret)})
    assert answer.status_code == 422
    assert not is_signed_in(client)
    assert said("person.factor_failed") == [
        "Somebody who gave the password of maja gave a wrong second factor."
    ]


@pytest.mark.parametrize(
    "posted",
    [
        {},
        {"code": ""},
        {"credential": "{"},
        {"credential": "[]"},
        {"credential": '{"id": 1}'},
        {"credential": MANY_DIGITS},
        {"credential": TOO_DEEP},
    ],
)
def test_malformed_second_factor_is_refused(client, secret, posted):
    sign_in(client)
    assert client.post("/sign-in/code", posted).status_code == 422
    assert not is_signed_in(client)


@pytest.mark.parametrize(
    "posted",
    [
        "",
        "{",
        "[]",
        "1",
        "null",
        '{"id": 1}',
        '{"response": 1}',
        '{"response": {"userHandle": "eA"}}',
        MANY_DIGITS,
        TOO_DEEP,
    ],
)
def test_malformed_passkey_at_the_sign_in_leads_back_there(client, maja, posted):
    answer = client.post("/sign-in/passkey", {"credential": posted})
    assert (answer.status_code, answer["Location"]) == (302, "/sign-in")


@pytest.mark.parametrize("posted", ["", "{", "[]", '{"id": 1}', MANY_DIGITS, TOO_DEEP])
def test_malformed_passkey_is_not_added(client, maja, posted):
    sign_in(client)
    answer = client.post("/preferences/factors/passkeys/add", {"credential": posted})
    assert answer.status_code == 422
    assert not Authenticator.objects.exists()


def test_page_of_the_second_factor_leads_to_the_sign_in_without_a_password(client, db):
    assert client.get("/sign-in/code")["Location"] == "/sign-in"


def test_code_of_the_app_counts_once(client, maja, secret):
    code = code_of(secret, 1)
    sign_in(client)
    client.post("/sign-in/code", {"code": code})
    other = Client()
    sign_in(other)
    assert other.post("/sign-in/code", {"code": code}).status_code == 422
    assert not is_signed_in(other)


def test_guessed_codes_are_refused_like_guessed_passwords(client, maja, secret):
    strangers = [Client() for _guess in range(11)]
    for stranger in strangers:
        sign_in(stranger)
    statuses = [
        stranger.post("/sign-in/code", {"code": wrong(secret)}).status_code
        for stranger in strangers
    ]
    assert statuses == [422] * 10 + [429]
    assert sign_in(Client()).status_code == 429


def test_owner_is_let_in_on_a_known_device_while_codes_are_guessed(client, maja, secret):
    sign_in(client)
    client.post("/sign-in/code", {"code": code_of(secret, 1)})
    client.post("/sign-out")
    for _guess in range(11):
        stranger = Client()
        sign_in(stranger)
        stranger.post("/sign-in/code", {"code": wrong(secret)})
    sign_in(client)
    client.post("/sign-in/code", {"code": codes_of(maja)[0]})
    assert is_signed_in(client)


def test_recovery_code_signs_in_once_and_is_told(client, maja, secret):
    code = codes_of(maja)[3]
    for entered in (True, False):
        other = Client()
        sign_in(other)
        other.post("/sign-in/code", {"code": code})
        assert is_signed_in(other) == entered
    assert said("person.recovery_code_used") == ["maja used a recovery code."]
    assert code not in codes_of(maja)


def test_recovery_codes_are_shown_once(client, maja):
    sign_in(client)
    secret = client.get("/preferences/factors/app").context["form"].secret
    client.post("/preferences/factors/app", {"code": code_of(secret)})
    codes = codes_of(maja)
    first, second = (client.get("/preferences/factors/codes").content.decode() for _ in "12")
    assert [code in first for code in codes] == [True] * 10
    assert [code in second for code in codes] == [False] * 10


def test_new_codes_end_the_old_ones(client, maja, secret):
    sign_in(client)
    client.post("/sign-in/code", {"code": code_of(secret, 1)})
    old = codes_of(maja)
    assert client.post("/preferences/factors/codes/new")["Location"] == "/preferences/factors/codes"
    assert set(old).isdisjoint(codes_of(maja))
    assert said("person.recovery_codes_made") == ["maja made new recovery codes."]


def test_key_of_the_app_is_stored_sealed(maja, secret):
    stored = Authenticator.objects.get(user=maja, type=Factor.APP).data["secret"]
    assert stored.startswith("gAAAA")
    assert secret not in stored


def test_changed_secret_key_is_said_and_lets_nobody_past(client, maja, secret, settings):
    settings.SECRET_KEY = "another key, of another console"
    sign_in(client)
    answer = client.post("/sign-in/code", {"code": code_of(secret, 1)})
    assert answer.status_code == 409
    assert "SECRET_KEY has changed" in answer.content.decode()
    assert not is_signed_in(client)


def test_key_is_read_under_a_former_secret_key(client, maja, secret, settings):
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "the next key"
    sign_in(client)
    client.post("/sign-in/code", {"code": code_of(secret, 1)})
    assert is_signed_in(client)


def test_removing_the_last_factor_takes_the_codes_with_it(client, maja, secret):
    sign_in(client)
    client.post("/sign-in/code", {"code": code_of(secret, 1)})
    assert client.post("/preferences/factors/app/remove")["Location"] == "/preferences/factors"
    assert not Authenticator.objects.exists()
    assert said("person.factor_removed") == [
        "maja removed an authenticator app from their sign-in."
    ]
    client.post("/sign-out")
    assert sign_in(client)["Location"] == "/"


def test_adding_a_factor_asks_once_more_after_ten_minutes(client, maja):
    sign_in(client)
    signed_in_ago(client, TEN_MINUTES)
    answer = client.get("/preferences/factors/app")
    assert answer["Location"] == "/preferences/confirm?next=%2Fpreferences%2Ffactors%2Fapp"
    page = client.get(answer["Location"])
    assert "Your password" in page.content.decode()
    assert client.post(answer["Location"], {"password": "wrong"}).status_code == 422
    assert client.post(answer["Location"], {"password": PASSWORD})["Location"] == (
        "/preferences/factors/app"
    )
    assert client.get("/preferences/factors/app").status_code == 200


def test_guessing_the_own_password_once_more_is_stopped(client, maja):
    sign_in(client)
    statuses = [
        client.post("/preferences/confirm", {"password": f"wrong {n}"}).status_code
        for n in range(11)
    ]
    assert statuses == [422] * 10 + [429]


def test_person_locked_out_between_password_and_code_is_not_signed_in(client, maja, secret):
    sign_in(client)
    User.objects.filter(pk=maja.pk).update(is_active=False)
    answer = client.post("/sign-in/code", {"code": code_of(secret, 1)})
    assert answer["Location"] == "/sign-in"
    assert "You may not sign in" in client.get("/sign-in").content.decode()
    assert len(said("person.signed_in")) == 1


def test_admin_takes_lost_factors_away_and_it_ends_the_sessions(client, maja, secret, person):
    sign_in(client)
    client.post("/sign-in/code", {"code": code_of(secret, 1)})
    admin = Client()
    admin.force_login(person("admin"))
    assert "Take second factors away" in admin.get("/settings").content.decode()
    assert admin.post(f"/settings/people/{maja.pk}/take-factors")["Location"] == "/settings"
    assert not is_signed_in(client)
    assert said("person.factors_taken") == ["admin took the second factors of maja away."]
    assert sign_in(client)["Location"] == "/"
    assert admin.post(f"/settings/people/{maja.pk}/take-factors").status_code == 409


def test_factors_of_others_are_not_found(client, maja, person, secret):
    passkey = Authenticator.objects.create(
        user=person("viewer"), type=Factor.PASSKEY, data={"name": "Theirs", "credential": {}}
    )
    sign_in(client)
    client.post("/sign-in/code", {"code": code_of(secret, 1)})
    for way in ("", "/remove"):
        assert client.post(f"/preferences/factors/passkeys/{passkey.pk}{way}").status_code == 404


def test_renamed_passkey_is_in_the_audit_trail(client, maja):
    sign_in(client)
    passkey = Authenticator.objects.create(
        user=maja, type=Factor.PASSKEY, data={"name": "Old", "credential": {}}
    )
    answer = client.post(f"/preferences/factors/passkeys/{passkey.pk}", {"name": "Blue key"})
    assert answer["Location"] == "/preferences/factors"
    told = AuditEvent.objects.latest("pk").told
    assert told == "maja renamed a factor of their sign-in: a passkey (Blue key)."


@pytest.mark.parametrize(
    "elsewhere", ["https://evil.example/", "//evil.example", "/\\evil.example"]
)
def test_sign_in_leads_to_no_other_site(client, maja, elsewhere):
    answer = client.post(
        f"/sign-in?next={elsewhere}", {"username": "maja", "password": PASSWORD, "next": elsewhere}
    )
    assert answer["Location"] == "/"


def test_passkeys_are_for_names_only(client, maja):
    sign_in(client)
    by_number = client.get("/preferences/factors/passkeys/add", headers={"host": "127.0.0.1:8000"})
    by_name = client.get("/preferences/factors/passkeys/add", headers={"host": "localhost"})
    assert "Browsers make passkeys for names only" in by_number.content.decode()
    assert "Browsers make passkeys for names only" not in by_name.content.decode()


def test_names_of_allauth_lead_to_the_pages(db):
    assert reverse("account_login") == reverse("sign-in")


@pytest.fixture
def silenced(monkeypatch) -> None:
    """An audit trail that takes nothing."""

    def refuse(event, row):
        raise Refused("the audit trail takes nothing")

    monkeypatch.setattr(recording, "LISTENERS", [refuse])


def test_app_is_not_added_when_that_cannot_be_recorded(client, maja, monkeypatch, request):
    sign_in(client)
    secret = client.get("/preferences/factors/app").context["form"].secret
    request.getfixturevalue("silenced")
    client.post("/preferences/factors/app", {"code": code_of(secret)})
    assert not Authenticator.objects.exists()


@pytest.mark.parametrize("address", ["app/remove", "codes/new"])
def test_nothing_is_taken_away_when_that_cannot_be_recorded(client, maja, secret, request, address):
    sign_in(client)
    client.post("/sign-in/code", {"code": code_of(secret, 1)})
    before = list(Authenticator.objects.order_by("pk").values_list("pk", "data"))
    request.getfixturevalue("silenced")
    client.post(f"/preferences/factors/{address}")
    assert list(Authenticator.objects.order_by("pk").values_list("pk", "data")) == before


def test_shell_takes_lost_factors_away(maja, secret, person):
    person("admin")
    with pytest.raises(SystemExit, match=r"^0$"):
        call_command("ops", "take-factors", "maja", stdout=StringIO())
    assert not Authenticator.objects.exists()


def test_many_people_of_one_address_give_passkeys_within_a_minute(client, db):
    given = [client.post("/sign-in/passkey", {"credential": "{}"}).status_code for _ in range(12)]
    assert given == [302] * 12
