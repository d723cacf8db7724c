"""Sudo mode: who has not said lately who they are is asked, and what they asked for goes on then."""

from __future__ import annotations

import json
import time

import pytest
from django.contrib.sessions.models import Session
from django.core import signing
from django.test import Client
from django.urls import reverse

from backups_app.models import Storage
from opsconsole.access.models import User
from opsconsole.access.sealing import SealedSerializer
from opsconsole.access.session_ends import BEGAN

TEN_MINUTES = 600


@pytest.fixture
def stale(admin) -> Client:
    """An admin who signed in ten minutes ago."""
    client = Client()
    client.force_login(admin)
    signed_in_ago(client, TEN_MINUTES)
    return client


def signed_in_ago(client: Client, seconds: float) -> None:
    session = client.session
    session[BEGAN] = time.time() - seconds
    session.save()


def stored(client: Client) -> bytes:
    """The session as it lies in the database."""
    row = Session.objects.get().session_data
    data: bytes = signing.loads(row, salt=client.session.key_salt, serializer=AsItIs)
    return data


class AsItIs:
    def loads(self, data: bytes) -> bytes:
        return data


def add_person(client: Client):
    return client.post(reverse("person-add"), {"username": "maja", "role": "viewer"})


def confirm(client: Client, password: str = "pw", *, then: str = "person-add"):
    asks = f"{reverse('account_reauthenticate')}?next={reverse(then)}"
    return client.post(asks, {"password": password, "next": reverse(then)})


def test_request_of_who_signed_in_ten_minutes_ago_is_held_until_they_confirm(stale):
    asked = add_person(stale)
    assert asked.url == f"{reverse('account_reauthenticate')}?next=%2Fsettings%2Fpeople%2Fadd"
    page = stale.get(asked.url).content.decode()
    assert "What you asked for is kept, and goes on as soon as you confirm." in page
    assert confirm(stale, "wrong").status_code == 422
    assert not User.objects.filter(username="maja").exists()

    done = confirm(stale)
    assert (done.status_code, done.templates[0].name) == (
        200,
        "opsconsole/password_link_made.html",
    )
    assert User.objects.filter(username="maja").count() == 1


def test_who_confirmed_is_not_asked_again_within_ten_minutes(stale):
    add_person(stale)
    confirm(stale)
    assert stale.post(reverse("storage-add"), {"name": "x"}).status_code == 422


def test_who_signed_in_nine_minutes_ago_is_not_asked(stale):
    signed_in_ago(stale, TEN_MINUTES - 60)
    assert add_person(stale).status_code == 200


def test_request_that_was_held_for_longer_than_ten_minutes_is_not_done(stale):
    add_person(stale)
    session = stale.session
    session["held_at"] -= TEN_MINUTES + 1
    session.save()
    answer = confirm(stale)
    assert (answer.status_code, answer.url) == (302, reverse("person-add"))
    assert not User.objects.filter(username="maja").exists()


def test_held_request_goes_on_only_where_it_was_asked_for(stale):
    add_person(stale)
    answer = confirm(stale, then="storage-add")
    assert (answer.status_code, answer.url) == (302, reverse("storage-add"))
    assert not User.objects.filter(username="maja").exists()
    assert confirm(stale).status_code == 302
    assert not User.objects.filter(username="maja").exists()


def test_refusal_of_a_held_request_is_told_as_without_it(stale, admin):
    own = reverse("person-lock-out", args=[admin.pk])
    stale.post(own)
    asks = f"{reverse('account_reauthenticate')}?next={own}"
    answer = stale.post(asks, {"password": "pw", "next": own})
    assert answer.status_code == 409
    assert "You cannot lock yourself out." in answer.content.decode()


def test_form_that_is_wrong_comes_back_with_its_own_address(stale):
    address = f"{reverse('storage-add')}?from=here"
    stale.post(address, {"name": "kept"})
    page = confirm(stale, then="storage-add")
    assert page.status_code == 422
    assert f'action="{address}"' in page.content.decode()
    assert 'value="kept"' in page.content.decode()


def test_secret_of_a_held_request_is_not_readable_where_sessions_lie(stale):
    stale.post(reverse("storage-add"), {"name": "bucket", "secret": "planted-secret"})
    assert "planted-secret" in str(stale.session.items())
    assert b"planted-secret" not in stored(stale)
    assert not Storage.objects.filter(name="bucket").exists()


@pytest.mark.parametrize(("keeps_the_older_key", "status"), [(True, 200), (False, 302)])
def test_session_goes_on_under_a_new_secret_key_as_long_as_the_older_one_is_a_fallback(
    stale, settings, keeps_the_older_key, status
):
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY] if keeps_the_older_key else []
    settings.SECRET_KEY = "another key that is long enough to be one of its own"
    assert stale.get(reverse("preferences")).status_code == status


def test_session_of_before_they_were_sealed_goes_on_and_is_sealed(stale, monkeypatch):
    with monkeypatch.context() as before:
        before.setattr(
            SealedSerializer, "dumps", lambda _self, session: json.dumps(session).encode()
        )
        signed_in_ago(stale, TEN_MINUTES)
    assert b"auth_user" in stored(stale)
    assert add_person(stale).status_code == 302
    assert b"auth_user" not in stored(stale)


def test_who_has_nothing_to_confirm_with_is_told_so(stale, admin):
    admin.set_unusable_password()
    admin.save()
    stale.force_login(admin)
    signed_in_ago(stale, TEN_MINUTES)
    answer = add_person(stale)
    assert answer.status_code == 403
    assert "This asks for your password or a second factor" in answer.content.decode()
