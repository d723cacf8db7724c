"""What is refused, and what leaves as a file, is in the audit trail."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest
from django.test import Client
from django.urls import get_resolver, reverse
from django.utils import timezone

from opsconsole.access.models import Membership, User
from opsconsole.audit.models import StrangerCount
from opsconsole.audit.refusals import record_strangers
from opsconsole.environments.models import Application, Environment, Target
from opsconsole.events import recording
from opsconsole.events.models import AuditEvent
from opsconsole.exceptions import Refused
from opsconsole.runs.models import Run
from tests.access.test_addresses import patterns

TEMPLATES = Path(__file__).parents[2] / "templates"
ADDRESS = "203.0.113.5"


@pytest.fixture
def run(db, admin) -> Run:
    application = Application.objects.create(slug="shop", name="Shop")
    environment = Environment.objects.create(
        application=application, slug="staging", name="Staging", position=1
    )
    target = Target.objects.create(environment=environment, dsn_reference="env:NOWHERE")
    return Run.objects.create(
        kind="backup",
        environment=environment,
        target=target,
        status="failed",
        requested_by=admin,
        idempotency_key="x",
    )


def signed_in(*roles: Membership, **options) -> Client:
    user = User.objects.create_user("limited")
    for role in roles:
        role.user = user
        role.save()
    client = Client(REMOTE_ADDR=ADDRESS, **options)
    client.force_login(user)
    return client


def refusals() -> list[tuple]:
    rows = AuditEvent.objects.filter(action="access.refused").order_by("id")
    assert {(row.actor_label, row.ip, row.outcome) for row in rows} <= {
        ("limited", ADDRESS, "denied")
    }
    return [(r.details["method"], r.details["path"], r.details["status"]) for r in rows]


def test_each_refusal_of_somebody_signed_in_is_recorded(run):
    client = signed_in(Membership(role="viewer"))
    for _ in range(2):
        assert client.post("/settings/people/add").status_code == 403
    assert client.post(f"/runs/{run.pk}/cancel").status_code == 403
    assert client.get("/runs/999").status_code == 404
    assert refusals() == [
        ("POST", "/settings/people/add", 403),
        ("POST", "/settings/people/add", 403),
        ("POST", f"/runs/{run.pk}/cancel", 403),
        ("GET", "/runs/999", 404),
    ]
    told = AuditEvent.objects.filter(action="access.refused").latest("id").told
    assert told == "limited was refused GET /runs/999: not there, or not theirs to see."


def test_forged_form_is_a_refusal_too(db):
    assert signed_in(enforce_csrf_checks=True).post("/preferences").status_code == 403
    assert refusals() == [("POST", "/preferences", 403)]


def test_what_is_allowed_mistyped_or_wrongly_filled_in_is_no_refusal(run, as_role):
    client = as_role("admin")
    for address, status in (("/", 200), ("/nowhere/at/all", 404), (f"/runs/{run.pk}", 200)):
        assert client.get(address).status_code == status
    assert client.post("/settings/people/add", {"username": ""}).status_code == 422
    assert client.post(f"/runs/{run.pk}/status").status_code == 405
    assert refusals() == []


def test_poll_is_no_refusal_and_the_same_asked_for_by_hand_is_one(run):
    client = signed_in(Membership(role="viewer", application=Application.objects.create(slug="x")))
    address = f"/runs/{run.pk}/status"
    assert client.get(address, headers={"HX-Request": "true"}).status_code == 404
    assert refusals() == []
    # The header alone hides nothing.
    assert client.get(f"/runs/{run.pk}", headers={"HX-Request": "true"}).status_code == 404
    assert client.get(address).status_code == 404
    assert len(refusals()) == 2


def test_refusal_whose_address_postgresql_cannot_hold_is_recorded(run):
    client = signed_in(Membership(role="viewer"))
    address = reverse("migration", args=["shop", "staging", "a\x00b" + "c" * 400])
    assert client.get(address).status_code == 404
    [(_method, path, _status)] = refusals()
    assert (path[-4:], len(path)) == ("cccc", 300)


def test_refusal_that_cannot_be_recorded_stays_one(run, monkeypatch, caplog):
    def refuse(event, row):
        raise Refused("the audit trail takes nothing")

    client = signed_in(Membership(role="viewer"))
    monkeypatch.setattr(recording, "LISTENERS", [refuse])
    assert client.post("/settings/people/add").status_code == 403
    assert "not in the audit trail" in caplog.text


def test_views_that_are_polled_are_those_that_say_so():
    tags = re.findall(r"<[^<>]*hx-get=[^<>]*>", "".join(_templates()))
    asked = {
        name
        for tag in tags
        if re.search(r'hx-trigger="[^"]*every', tag)
        for name in re.findall(r"{% url '([\w-]+)'", tag)
    }
    marked = {
        pattern.name
        for pattern in patterns(get_resolver().url_patterns)
        if getattr(pattern.callback, "is_polled", False)
    }
    assert marked == asked


def _templates() -> list[str]:
    # What a template tag says of `>` would end the tag of HTML for the pattern above.
    return [re.sub(r"{%(?! url).*?%}", "", p.read_text()) for p in TEMPLATES.rglob("*.html")]


# -- strangers


def test_strangers_are_counted_by_address_kind_and_minute(run):
    one = Client(REMOTE_ADDR=ADDRESS, enforce_csrf_checks=True)
    other = Client(REMOTE_ADDR="2001:db8::5")
    for _ in range(3):
        assert one.get("/runs").status_code == 302
    assert one.post(f"/runs/{run.pk}/cancel").status_code == 403
    assert one.get("/cgi-bin/a/b/c/d.php").status_code == 404
    assert other.post(f"/runs/{run.pk}/cancel").status_code == 302
    assert not AuditEvent.objects.exists()
    assert record_strangers() == 0
    StrangerCount.objects.update(minute=timezone.now() - timedelta(minutes=1))
    assert record_strangers() == 4
    assert not StrangerCount.objects.exists()
    told = AuditEvent.objects.filter(action="access.strangers_refused")
    assert sorted((e.ip, e.details["kind"], e.details["count"]) for e in told) == [
        ("2001:db8::5", "signed_out", 1),
        (ADDRESS, "forged", 1),
        (ADDRESS, "nothing_there", 1),
        (ADDRESS, "signed_out", 3),
    ]


def test_way_to_the_front_door_is_no_refusal(run, operator):
    client = Client()
    for address in ("/", "/sign-in", "/health"):
        client.get(address)
    client.get(f"/runs/{run.pk}/status", headers={"HX-Request": "true"})
    client.post("/sign-in", {"username": "operator", "password": "pw"})
    client.post("/sign-out")
    assert not StrangerCount.objects.exists()


# -- what leaves as a file


def test_downloads_are_recorded_and_pages_are_not(run):
    client = signed_in(Membership(role="viewer"))
    for address in ("/audit", f"/runs/{run.pk}", f"/runs/{run.pk}/log"):
        assert client.get(address).status_code == 200
    taken = AuditEvent.objects.filter(action="file.downloaded")
    assert not taken.exists()
    assert client.get(f"/runs/{run.pk}/log.txt").status_code == 200
    assert client.get("/audit.csv", {"who": "maja"}).status_code == 200
    assert list(taken.order_by("id").values_list("environment", "details")) == [
        (run.environment_id, {"file": f"run-{run.pk}.log"}),
        (None, {"file": "audit.csv", "filters": {"who": "maja"}}),
    ]


def test_file_whose_taking_cannot_be_recorded_is_not_given(run, monkeypatch):
    def refuse(event, row):
        raise Refused("the audit trail takes nothing")

    client = signed_in(Membership(role="viewer"))
    monkeypatch.setattr(recording, "LISTENERS", [refuse])
    assert client.get("/audit.csv").status_code == 409


def test_nothing_answers_with_a_file_of_its_own_making():
    root = Path(__file__).parents[2]
    sent = {
        path.relative_to(root).as_posix()
        for package in ("opsconsole", "backups_app", "migrations_app")
        for path in (root / package).rglob("*.py")
        if re.search(r"Content-Disposition|as_attachment|FileResponse", path.read_text())
    }
    # An archive is recorded as a download of its backup.
    assert sent == {"opsconsole/web/downloads.py", "backups_app/views/backups.py"}
