"""The pages of people: roles, preferences, signing in and out."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse

from opsconsole.access import people
from opsconsole.access.models import Membership, User
from opsconsole.events.models import AuditEvent


def test_people_roles_and_the_last_admin(as_role):
    client = as_role("admin")
    given = {"username": "p", "role": "viewer"}
    assert client.post(reverse("person-add"), given | {"username": "p q"}).status_code == 422
    assert client.post(reverse("person-add"), given).status_code == 200
    assert client.post(reverse("person-add"), given).status_code == 422
    person = User.objects.get(username="p")
    role = {"user": person.pk, "role": "operator"}
    assert client.post(reverse("role-add"), role).status_code == 302
    assert client.post(reverse("role-add"), role).status_code == 422
    mine = Membership.objects.get(role="admin")
    remove = reverse("role-revoke", args=[mine.pk])
    answer = client.post(remove)
    assert (answer.status_code, "last admin" in answer.content.decode()) == (409, True)
    other = person.memberships.get(role="operator")
    assert client.post(reverse("role-revoke", args=[other.pk])).status_code == 302
    assert client.post(reverse("person-lock-out", args=[person.pk])).status_code == 302
    person.refresh_from_db()
    assert person.is_active is False
    assert client.post(reverse("person-lock-out", args=[mine.user.pk])).status_code == 409


def test_preferences_set_theme_and_time_zone(as_role):
    client = as_role("viewer")
    assert client.post("/preferences", {"theme": "dark", "time_zone": "Mars"}).status_code == 422
    assert (
        client.post("/preferences", {"theme": "dark", "time_zone": "Asia/Tokyo"}).status_code == 302
    )
    assert 'data-theme="dark"' in client.get("/").content.decode()


def test_sign_in_and_failure_are_audited(client, operator):
    assert client.post("/sign-in", {"username": "operator", "password": "no"}).status_code == 200
    assert client.post("/sign-in", {"username": "operator", "password": "pw"}).status_code == 302
    assert client.post("/sign-out").status_code == 302
    actions = AuditEvent.objects.order_by("id").values_list("action", flat=True)
    assert list(actions) == ["person.sign_in_failed", "person.signed_in", "person.signed_out"]


def test_session_of_somebody_locked_out_is_dead_also_once_they_are_let_in(admin, operator):
    client = Client()
    client.force_login(operator)
    assert client.get("/").status_code == 200
    people.lock_out(actor=admin, user=operator)
    people.let_in(actor=admin, user=operator)
    assert client.get("/").status_code == 302
    assert client.post("/sign-in", {"username": "operator", "password": "pw"}).status_code == 302
    assert client.get("/").status_code == 200


@pytest.mark.parametrize("address", ["/", "/runs", "/audit.csv", "/nothing-here", "/settings"])
def test_what_somebody_signed_in_gets_is_not_stored(as_role, address):
    assert as_role("viewer").get(address)["Cache-Control"] == "no-store"


def test_signing_in_and_out_is_not_stored_and_a_stranger_gets_no_page(client, operator):
    given = {"username": "operator", "password": "pw"}
    assert client.post("/sign-in", given)["Cache-Control"] == "no-store"
    assert client.post("/sign-out")["Cache-Control"] == "no-store"
    assert client.get("/").status_code == 302


@pytest.mark.parametrize("address", ["/sign-in", "/health", "/nothing-here"])
def test_pages_turn_off_what_they_do_not_use_of_the_browser(db, client, address):
    assert "camera=()" in client.get(address)["Permissions-Policy"].split(", ")
