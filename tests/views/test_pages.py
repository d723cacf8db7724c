"""Every page: who may see it, what it answers to bad input, and how many queries it takes."""

from __future__ import annotations

import gzip
import re
from datetime import datetime, timedelta
from unittest.mock import Mock

import pytest
from django.conf import settings
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.files.uploadhandler import MemoryFileUploadHandler
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from backups_app import services as backups
from opsconsole.access.choices import Role
from opsconsole.access.models import Membership, User
from opsconsole.environments.models import Environment, Target, TargetState
from opsconsole.health import services as health
from opsconsole.health.models import HealthResult
from opsconsole.project.checks import check_security_contact
from opsconsole.runs.choices import RunKind, RunStatus
from opsconsole.runs.models import Run
from opsconsole.runs.workers import Worker
from tests.conftest import url
from tests.worker import observe_target

PAGES = (
    "home",
    "runs",
    "backups",
    "audit",
    "preferences",
    "password-change",
    "mfa_index",
    "sessions",
)
SETTINGS = ("settings", "application-add", "person-add", "role-add")


@pytest.mark.django_db
@pytest.mark.parametrize("name", [*PAGES, *SETTINGS])
def test_pages_ask_a_stranger_to_sign_in(client, name):
    answer = client.get(reverse(name))
    assert answer.status_code == 302
    assert answer.headers["location"].startswith("/sign-in?next=")


@pytest.mark.parametrize("role", Role.values)
def test_every_role_sees_the_pages_and_only_admins_the_settings(as_role, role, seen):
    client = as_role(role)
    for name in PAGES:
        assert client.get(reverse(name)).status_code == 200, name
    assert client.get(seen.get_absolute_url()).status_code == 200
    expected = 200 if role == Role.ADMIN else 403
    for name in SETTINGS:
        assert client.get(reverse(name)).status_code == expected, name


@pytest.mark.parametrize("role", [Role.VIEWER, Role.REVIEWER])
def test_viewers_and_reviewers_may_not_change_anything(as_role, role, seen):
    client = as_role(role)
    for name in ("migrate", "back-up"):
        assert client.post(url(seen, name)).status_code == 403
    assert not Run.objects.exists()


@pytest.mark.django_db
def test_member_of_one_environment_sees_only_that_one(make_environment, client):
    one, other = make_environment("staging"), make_environment("production", position=2)
    user = User.objects.create_user("limited")
    Membership.objects.create(user=user, role=Role.OPERATOR, environment=one)
    client.force_login(user)
    assert client.get(one.get_absolute_url()).status_code == 200
    assert client.get(other.get_absolute_url()).status_code == 404
    assert "Production" not in client.get("/").content.decode()
    assert client.get("/audit").status_code == 200


def test_empty_console_says_what_will_appear(as_role):
    page = as_role("admin").get("/").content.decode()
    assert "No application yet" in page
    assert "No worker is running" in page


def make_many(environment: Environment, count: int) -> None:
    for number in range(count):
        copy = Environment.objects.create(
            application=environment.application,
            slug=f"e{number}",
            name=f"E{number}",
            position=number + 5,
            migrations_folder=environment.migrations_folder,
        )
        target = Target.objects.create(environment=copy, dsn_reference="env:NOWHERE")
        migrations = [{"name": "20250101000000_init", "state": "applied", "by_hand": False}]
        target.states.create(data={"migrations": migrations, "refusals": [], "server": {}})
        sample = HealthResult(
            environment=copy, check_name="x", is_healthy=True, latency_ms=1, summary="ok"
        )
        health.keep_results([sample])
        Run.objects.create(
            kind=RunKind.BACKUP,
            status=RunStatus.FAILED,
            environment=copy,
            target=target,
            idempotency_key=f"run of {copy.pk}",
        )


@pytest.mark.parametrize("path", ["/", "/runs", "/backups", "/find?q=init"])
def test_queries_do_not_grow_with_the_rows(as_role, seen, path, django_assert_num_queries):
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    client = as_role("operator")
    make_many(seen, 1)
    client.get(path)
    with CaptureQueriesContext(
        connection,
    ) as few:
        client.get(path)
    Environment.objects.filter(slug="e0").update(slug="first")
    make_many(seen, 3)
    with django_assert_num_queries(len(few)):
        client.get(path)


@pytest.mark.parametrize("page", ["home", "environment", "runs", "audit", "backups", "settings"])
def test_page_asks_nothing_twice(as_role, seen, page):
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    client = as_role("admin")
    path = url(seen, page) if page == "environment" else reverse(page)
    client.get(path)
    with CaptureQueriesContext(connection) as asked:
        assert client.get(path).status_code == 200
    queries = [query["sql"] for query in asked]
    assert sorted(queries) == sorted(set(queries))


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/runs/999999", 404),
        ("/audit/999999", 404),
        ("/audit/99999999999999999999", 404),
        ("/backups/999999", 404),
        ("/nothing/here", 404),
        ("/runs?environment=x&kind=y&status=z", 422),
        ("/backups?environment=-1", 422),
        ("/backups?before=nonsense&after=-1", 200),
        ("/backups?before=999999999999999999-1", 200),
        ("/runs?before=nonsense&after=-1", 200),
        ("/audit?after=99999999999999999999", 200),
        ("/audit?since=yesterday", 422),
        ("/audit?event=tape.rewound", 422),
        ("/audit?since=2026-02-01&until=2026-01-01", 422),
        ("/audit.csv?since=yesterday", 422),
        ("/find?q=%00", 400),
        ("/runs/1/log?after=abc", 404),
    ],
)
def test_bad_addresses_and_parameters_get_a_clear_answer(as_role, path, status):
    answer = as_role("admin").get(path)
    assert answer.status_code == status
    assert "Traceback" not in answer.content.decode()


def test_find_leads_to_runs_environments_and_migrations(as_role, seen, operator, folder):
    run = backups.request_backup(
        actor=operator, target=seen.targets.get(), idempotency_key="b" * 32
    )
    client = as_role("viewer")
    assert client.get(f"/find?q={run.pk}").headers["location"] == f"/runs/{run.pk}"
    assert "20250101000000_init" in client.get("/find?q=init").content.decode()
    folder.add("0 b?c#d", "SELECT 1;")
    assert observe_target(seen.targets.get()).names("out_of_order") == ["0 b?c#d"]
    page = client.get("/find?q=B%3FC").content.decode()
    (address,) = re.findall(r'href="([^"]*/migrations/[^"]*)"', page)
    assert address == f"{seen.get_absolute_url()}/migrations/0%20b%3Fc%23d"
    assert client.get(address).status_code == 200
    assert "Shop staging" in client.get("/find?q=stag").content.decode()
    assert "Nothing is named" in client.get("/find?q=zzz").content.decode()
    assert client.get(url(seen, "migration", "20250101000000_init")).status_code == 200
    assert client.get(url(seen, "migration", "nothing")).status_code == 404


def test_form_without_token_is_refused_with_a_page(operator):
    client = Client(enforce_csrf_checks=True)
    client.force_login(operator)
    answer = client.post("/preferences", {"theme": ""})
    assert (answer.status_code, "too old" in answer.content.decode()) == (403, True)


def test_pages_carry_a_policy_without_inline_code(as_role):
    answer = as_role("viewer").get("/")
    policy = answer.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "default-src 'self'" in policy
    assert " style=" not in answer.content.decode()


def test_no_template_has_code_or_style_in_it():
    # The policy has browsers ignore it, on pages that no test opens too.
    inline = re.compile(
        r"<style|<script(?![^>]* src=)|\s(style|on\w+|hx-on[\w:-]*)=|javascript:|js:"
    )
    found = {
        str(template): inline.findall(template.read_text())
        for template in (settings.BASE_DIR / "templates").rglob("*.html")
    }
    assert len(found) > 50
    assert {name: texts for name, texts in found.items() if texts} == {}


@pytest.mark.django_db
def test_security_txt_says_whom_to_tell_where_a_contact_is_set(client, settings):
    assert client.get("/.well-known/security.txt").status_code == 404
    settings.SECURITY_CONTACT = "mailto:security@example.com"
    answer = client.get("/.well-known/security.txt")
    contact, expires, languages = answer.content.decode().splitlines()
    assert (contact, languages) == (
        "Contact: mailto:security@example.com",
        "Preferred-Languages: en",
    )
    left = datetime.fromisoformat(expires.removeprefix("Expires: ")) - timezone.now()
    assert 29 <= left.days < 365
    assert answer["Content-Type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize("contact", ["security@example.com", "https://a.b\nContact: tel:1"])
def test_check_says_that_a_contact_is_no_address(settings, contact):
    settings.SECURITY_CONTACT = contact
    (error,) = check_security_contact()
    assert error.id == "opsconsole.E003"


@pytest.mark.django_db
def test_console_health_is_503_without_a_worker(client):
    answer = client.get("/health")
    body = answer.json()
    assert (answer.status_code, body["status"], body["database"], body["broker"]) == (
        503,
        "unhealthy",
        "connected",
        "connected",
    )
    assert body["error"] == "no worker is alive"


def test_console_health_tells_workers_that_do_nothing(client, environment):
    def problem() -> str:
        return client.get("/health").json().get("error", "")

    now = timezone.now()
    worker = Worker.objects.create(name="w", host="h", pid=1, started_at=now)
    assert problem() == ""
    Worker.objects.update(started_at=now - timedelta(minutes=9))
    assert problem() == "no target was read for 9 min: workers or scheduler are stuck"
    state = TargetState.objects.create(target=environment.targets.get())
    assert problem() == ""
    TargetState.objects.filter(pk=state.pk).update(observed_at=now - timedelta(minutes=4))
    assert problem() == "no target was read for 4 min: workers or scheduler are stuck"
    worker.delete()
    assert problem() == "no worker is alive"


def test_file_of_a_stranger_is_not_read(client, operator, monkeypatch):
    read = Mock(return_value=None)
    monkeypatch.setattr(MemoryFileUploadHandler, "receive_data_chunk", read)
    sent = {"username": "x", "password": "y", "file": SimpleUploadedFile("a", b"x" * 1000)}
    assert client.post(reverse("sign-in"), sent).status_code < 500
    assert read.call_count == 0
    client.force_login(operator)
    client.post(reverse("sign-in"), {"file": SimpleUploadedFile("a", b"x" * 1000)})
    assert read.call_count == 1


def test_page_is_sent_compressed_and_an_archive_as_it_is(as_role, seen):
    client = as_role("admin")
    pages = {"Accept-Encoding": "gzip"}
    page = client.get(seen.get_absolute_url(), headers=pages)
    assert page.headers["content-encoding"] == "gzip"
    assert "Pending" in gzip.decompress(page.content).decode()
    export = client.get("/audit.csv", headers=pages)
    assert "content-encoding" not in export.headers
    assert b"".join(export.streaming_content).startswith(b"id,")


def test_styleguide_shows_every_component_in_debug_mode_only(as_role, settings):
    client = as_role("viewer")
    assert client.get("/styleguide").status_code == 404
    settings.DEBUG = True
    page = client.get("/styleguide").content.decode()
    for shown in ("Needs a decision", "Nothing was done yet", "A refused form", "41.2 MB"):
        assert shown in page, shown
