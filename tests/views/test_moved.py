"""Addresses that 0.1 gave out lead to where their pages are now."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse

from opsconsole.access.models import Membership, User
from opsconsole.environments.models import Application, Environment, Target


def make_application(slug: str) -> Environment:
    """An application with an environment `staging`, without a database."""
    application = Application.objects.create(slug=slug, name=slug.capitalize())
    environment = Environment.objects.create(
        application=application, slug="staging", name="Staging", position=1
    )
    Target.objects.create(environment=environment, dsn_reference="env:NOWHERE")
    return environment


@pytest.mark.parametrize("slug", ["shop", "applications", "runs", "work", "settings", "static"])
def test_application_of_any_name_has_its_pages_below_applications(db, as_role, slug):
    environment = make_application(slug)
    client = as_role("admin")
    for address in (f"/applications/{slug}", f"/applications/{slug}/staging"):
        assert client.get(address).status_code == 200, address
    assert environment.get_absolute_url() == f"/applications/{slug}/staging"


@pytest.mark.parametrize("slug", ["shop", "applications", "work"])
@pytest.mark.parametrize(
    "rest", ["", "/staging", "/staging/health?day=2", "/staging/migrate?a=b%20c"]
)
def test_old_address_of_a_page_redirects_with_its_query(db, as_role, slug, rest):
    make_application(slug)
    answer = as_role("admin").get(f"/{slug}{rest}")
    assert (answer.status_code, answer.headers["Location"]) == (302, f"/applications/{slug}{rest}")


@pytest.mark.parametrize("slug", ["shop", "applications"])
@pytest.mark.parametrize("act", ["backup", "health/check", "migrations/1_a/resolve"])
def test_old_address_of_an_act_is_called_again_at_the_new_one(db, as_role, slug, act):
    make_application(slug)
    answer = as_role("operator").post(f"/{slug}/staging/{act}")
    assert answer.status_code == 308
    assert answer.headers["Location"] == f"/applications/{slug}/staging/{act}"


@pytest.mark.parametrize(
    "address",
    [
        "/none",
        "/shop/none",
        "/shop/staging/none",
        "/applications/none",
        "/applications/shop/none",
        "/applications",
        "/applications/staging",
        "/runs/none",
        "/shop/staging/none/none/none/none",
    ],
)
def test_address_of_nothing_is_not_found(db, as_role, address):
    make_application("shop")
    assert as_role("admin").get(address).status_code == 404


def test_old_address_tells_nobody_what_they_may_not_see(db):
    seen, hidden = make_application("shop"), make_application("secret")
    user = User.objects.create_user("limited")
    Membership.objects.create(user=user, role="viewer", environment=seen)
    client = Client()
    client.force_login(user)
    assert client.get("/shop/staging").status_code == 302
    assert client.get("/secret/staging").status_code == 404
    assert client.get(hidden.get_absolute_url()).status_code == 404


@pytest.mark.parametrize("slug", ["shop", "none"])
def test_old_address_asks_whoever_is_not_signed_in_to_sign_in(db, slug):
    make_application("shop")
    answer = Client().get(f"/{slug}/staging?q=1", follow=True)
    assert answer.redirect_chain == [
        (f"/applications/{slug}/staging?q=1", 302),
        (f"{reverse('sign-in')}?next=/applications/{slug}/staging%3Fq%3D1", 302),
    ]


def test_old_address_is_found_with_debug_pages_on(db, as_role, settings):
    settings.DEBUG = True
    make_application("shop")
    assert as_role("viewer").get("/shop").status_code == 302


@pytest.mark.parametrize(
    ("thing", "address"),
    [
        ("application", "/settings/applications/7/archive"),
        ("environment", "/settings/environments/7/archive"),
        ("health-check", "/settings/checks/7/delete"),
        ("role", "/settings/roles/7/revoke"),
        ("person", "/settings/people/7/lock-out"),
    ],
)
def test_old_address_of_a_removal_is_called_again_at_the_new_one(as_role, thing, address):
    answer = as_role("admin").post(f"/settings/remove/{thing}/7")
    assert (answer.status_code, answer.headers["Location"]) == (308, address)


def test_old_address_of_a_removal_still_removes(as_role, person):
    viewer = person("viewer")
    answer = as_role("admin").post(f"/settings/remove/person/{viewer.pk}", follow=True)
    assert answer.redirect_chain[-1] == (reverse("settings"), 302)
    viewer.refresh_from_db()
    assert viewer.is_active is False


def test_old_address_of_the_removal_of_an_unknown_thing_is_not_found(as_role):
    assert as_role("admin").post("/settings/remove/anything/7").status_code == 404
