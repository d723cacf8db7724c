"""Where people are signed in: they see it, and they or an admin end it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from allauth.mfa.models import Authenticator
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from opsconsole.access import people, sessions
from opsconsole.access.browsers import browser_of
from opsconsole.access.models import OpenSession, User
from opsconsole.access.session_ends import USED
from opsconsole.events.models import AuditEvent
from tests.access.test_second_factors import code_of
from tests.access.test_sudo import TEN_MINUTES, signed_in_ago

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"
SAFARI = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 "
    "(KHTML, like Gecko) Version/26.0 Mobile/15E148 Safari/604.1"
)
EDGE = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/142.0.0.0 Safari/537.36 Edg/142.0.0.0"
)


def signed_in(user: User, *, user_agent: str = FIREFOX, address: str = "192.0.2.7") -> Client:
    """A browser that has asked for a page."""
    client = Client(headers={"User-Agent": user_agent}, REMOTE_ADDR=address)
    client.force_login(user)
    assert client.get(reverse("preferences")).status_code == 200
    return client


def is_signed_in(client: Client) -> bool:
    return client.get(reverse("preferences")).status_code == 200


def own(client: Client) -> OpenSession:
    return OpenSession.objects.get(session_id=client.session.session_key)


@pytest.mark.parametrize(
    ("says", "words"),
    [
        (FIREFOX, "Firefox on Linux"),
        (SAFARI, "Safari on iPhone"),
        (EDGE, "Edge on Windows"),
        ("curl/8.17.0", "curl/8.17.0"),
        ("x" * 300, "x" * 40),
        ("", "unknown browser"),
    ],
)
def test_browser_is_called_by_its_name(says, words):
    assert browser_of(says) == words


def test_person_sees_where_they_are_signed_in_and_others_do_not(operator, admin):
    here = signed_in(operator)
    signed_in(operator, user_agent=SAFARI, address="2001:db8::7")
    signed_in(admin, user_agent=EDGE)
    page = here.get(reverse("sessions")).content.decode()
    for text in ("Firefox on Linux", "192.0.2.7", "Safari on iPhone", "2001:db8::7", "this one"):
        assert text in page
    assert "Edge on Windows" not in page


def test_ended_session_asks_to_sign_in_and_the_others_go_on(operator):
    here, there = signed_in(operator), signed_in(operator, user_agent=SAFARI)
    key = there.session.session_key
    answer = here.post(reverse("session-end", args=[own(there).pk]))
    assert (answer.status_code, answer.url) == (302, reverse("sessions"))
    assert not Session.objects.filter(pk=key).exists()
    assert (is_signed_in(there), is_signed_in(here)) == (False, True)
    event = AuditEvent.objects.get(action="person.session_ended")
    assert event.details == {"session": "Safari on iPhone, 192.0.2.7"}


def test_session_of_somebody_else_is_not_found(operator, admin):
    here, theirs = signed_in(operator), signed_in(admin)
    assert here.post(reverse("session-end", args=[own(theirs).pk])).status_code == 404
    assert is_signed_in(theirs)


def test_person_ends_all_their_other_sessions(operator, admin):
    here, there, theirs = signed_in(operator), signed_in(operator), signed_in(admin)
    here.post(reverse("sessions-end-others"))
    assert [is_signed_in(c) for c in (here, there, theirs)] == [True, False, True]
    assert AuditEvent.objects.get(action="person.sessions_ended").details == {"count": 1}


@pytest.mark.parametrize("name", ["session-end", "sessions-end-others"])
def test_ending_sessions_asks_who_it_is(operator, name):
    here, there = signed_in(operator), signed_in(operator)
    signed_in_ago(here, TEN_MINUTES)
    args = [own(there).pk] if name == "session-end" else []
    answer = here.post(reverse(name, args=args))
    assert answer.url.startswith(reverse("account_reauthenticate"))
    assert is_signed_in(there)


def test_admin_sees_and_ends_the_sessions_of_somebody(operator, admin):
    there, here = signed_in(operator, user_agent=SAFARI), signed_in(admin)
    page = reverse("person-sessions", args=[operator.pk])
    assert "Safari on iPhone" in here.get(page).content.decode()
    answer = here.post(reverse("person-sessions-end", args=[operator.pk]))
    assert (answer.status_code, answer.url) == (302, page)
    assert (is_signed_in(there), is_signed_in(here)) == (False, True)
    assert "None." in here.get(page).content.decode()


def test_admin_who_ends_their_own_sessions_keeps_the_present_one(admin):
    here, there = signed_in(admin), signed_in(admin)
    here.post(reverse("person-sessions-end", args=[admin.pk]))
    assert (is_signed_in(there), is_signed_in(here)) == (False, True)


def test_sessions_that_are_over_are_not_listed(operator, settings):
    signed_in(operator)
    for field, seconds in (
        ("used_at", settings.SESSION_IDLE_SECONDS),
        ("began_at", settings.SESSION_COOKIE_AGE),
    ):
        assert sessions.open_sessions(operator).count() == 1
        before = dict(OpenSession.objects.values("used_at", "began_at").get())
        OpenSession.objects.update(**{field: timezone.now() - timedelta(seconds=seconds + 1)})
        assert sessions.open_sessions(operator).count() == 0
        OpenSession.objects.update(**before)
    Session.objects.update(expire_date=timezone.now())
    assert sessions.open_sessions(operator).count() == 0


def test_last_use_is_noted_once_a_minute(operator):
    client = signed_in(operator)
    first = own(client).used_at
    assert is_signed_in(client)
    assert own(client).used_at == first
    session = client.session
    session[USED] -= 61
    session.save()
    assert is_signed_in(client)
    assert own(client).used_at > first


def test_session_with_a_new_key_is_listed_once(operator):
    client = signed_in(operator)
    began = own(client).began_at
    client.post(
        reverse("password-change"),
        {"old_password": "pw", "new_password1": "a-new-one-9", "new_password2": "a-new-one-9"},
    )
    assert is_signed_in(client)
    assert sessions.open_sessions(operator).get() == own(client)
    assert own(client).began_at == began


def test_sign_out_takes_what_is_known_of_the_session(operator):
    client = signed_in(operator)
    client.post(reverse("sign-out"))
    assert not OpenSession.objects.exists()


def test_session_that_is_ended_while_it_asks_is_not_listed_again(operator, rf):
    client = signed_in(operator)
    request = rf.get("/")
    request.user, request.session = operator, client.session
    Session.objects.all().delete()
    sessions.note_session(request, began=0)
    assert not OpenSession.objects.exists()


@pytest.mark.parametrize(
    "act",
    [
        lambda user, admin: people.lock_out(actor=admin, user=user),
        lambda user, admin: people.set_password_by_link(user=user, password="new"),
        lambda user, admin: (
            Authenticator.objects.create(user=user, type="totp", data={}),
            people.take_factors(actor=admin, user=user),
        ),
    ],
)
def test_who_is_locked_out_or_signs_in_anew_has_no_session_left(operator, admin, act):
    client = signed_in(operator)
    act(operator, admin)
    assert not OpenSession.objects.filter(user=operator).exists()
    assert not is_signed_in(client)


def test_new_factor_and_new_recovery_codes_end_the_other_sessions(operator):
    here, there = signed_in(operator), signed_in(operator)
    add = reverse("mfa_activate_totp")
    secret = here.get(add).context["form"].secret
    page = here.post(add, {"code": code_of(secret)}, follow=True).content.decode()
    assert "Your other sessions have ended." in page
    assert (is_signed_in(there), is_signed_in(here)) == (False, True)

    there = signed_in(operator)
    page = here.post(reverse("mfa_generate_recovery_codes"), follow=True).content.decode()
    assert "Your other sessions have ended." in page
    assert (is_signed_in(there), is_signed_in(here)) == (False, True)


def test_page_of_sessions_takes_as_many_queries_for_three(operator):
    client = signed_in(operator)

    def queries() -> int:
        with CaptureQueriesContext(connection) as found:
            client.get(reverse("sessions"))
        return len(found)

    one = queries()
    signed_in(operator)
    signed_in(operator)
    assert queries() == one
