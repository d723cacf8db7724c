"""The audit trail as people read it, and how much of it."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from backups_app import services as backups
from opsconsole.access.choices import Role
from opsconsole.access.models import Membership, User
from opsconsole.audit.visibility import visible_events
from opsconsole.environments.events import TARGET_TESTED
from opsconsole.events import models as events_models
from opsconsole.events.catalogue import CATALOGUE, Audience
from opsconsole.events.models import AuditEvent
from opsconsole.events.recording import record
from opsconsole.health.models import HealthCheck
from tests.conftest import url


def queries(client, address: str) -> list[str]:
    client.get(address)
    with CaptureQueriesContext(connection) as asked:
        assert client.get(address).status_code == 200
    return [query["sql"] for query in asked.captured_queries]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("seen_by", "shown"), [(Audience.ENVIRONMENT, True), (Audience.CONSOLE, False)]
)
def test_audit_event_for_the_whole_console_is_hidden_from_members_of_its_environment(
    make_environment, admin, monkeypatch, seen_by, shown
):
    environment = make_environment("staging")
    monkeypatch.setitem(CATALOGUE, "target.tested", replace(TARGET_TESTED, seen_by=seen_by))
    row = record(TARGET_TESTED, actor=admin, environment=environment)
    member = User.objects.create_user("limited")
    Membership.objects.create(user=member, role=Role.VIEWER, environment=environment)
    assert visible_events(member).filter(pk=row.pk).exists() is shown
    assert visible_events(admin).filter(pk=row.pk).exists()


def test_audit_pages_tell_an_act_by_its_sentence(as_role, environment, operator):
    run = backups.request_backup(
        actor=operator, target=environment.targets.get(), idempotency_key="b" * 32
    )
    told = f"operator requested run {run.pk} (back up)."
    event = AuditEvent.objects.get(action="run.requested")
    client = as_role("viewer")
    for address in ("/audit", reverse("audit-event", args=[event.pk]), run.get_absolute_url()):
        page = client.get(address).content.decode()
        assert told in page
        assert "circle-dot" in page
    exported = b"".join(client.get("/audit.csv").streaming_content).decode()
    assert [line for line in exported.splitlines() if line.endswith(f",{told}")]


@pytest.mark.parametrize("address", ["/audit", "/runs/{run}"])
def test_audit_pages_take_as_many_queries_for_many_events_of_any_age_as_for_one(
    as_role, environment, operator, address
):
    run = backups.request_backup(
        actor=operator, target=environment.targets.get(), idempotency_key="b" * 32
    )
    client, address = as_role("viewer"), address.format(run=run.pk)
    few = queries(client, address)
    for _number in range(5):
        record(TARGET_TESTED, actor=operator, environment=environment, run=run)
        AuditEvent.objects.create(
            action=TARGET_TESTED.key,
            actor_label="ada",
            actor_kind="user",
            app_version="0.1.0",
            environment=environment,
            run=run,
        )
    assert len(queries(client, address)) == len(few)


def test_audit_filters_by_who_what_and_environment(as_role, environment, operator):
    backups.request_backup(
        actor=operator, target=environment.targets.get(), idempotency_key="b" * 32
    )
    client = as_role("reviewer")

    def found(query: str) -> bool:
        page = client.get(f"/audit?{query}").content.decode()
        return "operator requested run" in page.split("</form>")[-1]

    today = timezone.now().date()
    assert found(f"who=operator&what=run.&environment={environment.pk}&since={today}&until={today}")
    assert found("event=run.requested")
    assert found("what=operator+requested")
    assert not found("event=run.ended")
    assert not found("what=operator+ended")
    assert not found("who=nobody")
    assert not found("until=2020-01-01")


def test_audit_is_searched_by_what_people_type(as_role, make_environment, operator):
    runs = [
        backups.request_backup(
            actor=operator,
            target=make_environment(name).targets.get(),
            idempotency_key=name[:1] * 32,
            reason=reason,
        )
        for name, reason in (("staging", "Quarter end"), ("demo", "because"))
    ]
    client = as_role("reviewer")

    def found(what: str) -> list[bool]:
        page = client.get("/audit", {"what": what}).content.decode().split("</form>")[-1]
        return [f"requested run {run.pk} " in page for run in runs]

    first, second = (run.pk for run in runs)
    assert found("quarter end") == [True, False]
    assert (found(f"run {first}"), found(f"Run #{second}")) == ([True, False], [False, True])
    assert found(f"run {first}{second}") == [False, False]
    assert found("run " + "9" * 18) == [False, False]
    assert found("100%") == [False, False]
    page = client.get("/find", {"q": "quarter end"}).content.decode()
    assert 'href="/audit?what=quarter%20end"' in page


def test_search_of_the_audit_trail_reads_an_index(db):
    for events, index in (
        (AuditEvent.objects.matching(what="quarter end"), "audit_event_words"),
        (AuditEvent.objects.matching(what="quarter end 33333"), "~~ '% 33333%'"),
        (AuditEvent.objects.matching(who="nobody"), "audit_event_actor"),
    ):
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_indexscan = off")
        assert index in events.order_by().explain()


REASONS = [
    "quarter end 33333",
    "Quarter  end 333334",
    "33333 quarter end",
    "end 33333",
    "50% 33333",
]


@pytest.mark.parametrize("few", [events_models.FEW, -1], ids=["rare numbers", "common numbers"])
@pytest.mark.parametrize(
    "text",
    [
        *("quarter end 33333", "QUARTER END 3", "end 33333", "r  end 3333", "33333 quarter"),
        *("end 33333 x", " 33333", "33333", "50% 3", "5_% 33333", "quarter end", "x2y end", " "),
    ],
)
def test_search_finds_what_holds_the_text_however_rare_its_number(db, monkeypatch, few, text):
    monkeypatch.setattr(events_models, "FEW", few)
    for reason in REASONS:
        AuditEvent.objects.create(action="x", actor_label="x", reason=reason, sentence="x")
    found = AuditEvent.objects.matching(what=text).values_list("reason", flat=True)
    held = [reason for reason in REASONS if text.lower() in f"x x  {reason} x".lower()]
    assert sorted(found) == sorted(held)


def test_console_is_upgraded_where_pg_trgm_is_out_of_reach(db):
    upgrade = import_module("opsconsole.migrations.0020_find_among_a_million")
    there = (
        "SELECT count(*) FROM pg_class WHERE relname IN ('audit_event_words', 'audit_event_actor')"
    )

    def indexes() -> int:
        with connection.cursor() as cursor:
            cursor.execute(there)
            return cursor.fetchone()[0]

    assert indexes() == 2
    upgrade.forget_words(None, connection.schema_editor())
    with connection.cursor() as cursor:
        cursor.execute("DROP EXTENSION pg_trgm; CREATE SCHEMA elsewhere")
        cursor.execute("CREATE EXTENSION pg_trgm SCHEMA elsewhere")
    upgrade.index_words(None, connection.schema_editor())
    assert indexes() == 0
    with connection.cursor() as cursor:
        cursor.execute("DROP EXTENSION pg_trgm")
    upgrade.index_words(None, connection.schema_editor())
    assert indexes() == 2


def test_audit_csv_starts_no_formula(as_role, environment, operator):
    backups.request_backup(
        actor=operator, target=environment.targets.get(), idempotency_key="b" * 32, reason="=1+1"
    )
    text = b"".join(
        as_role("viewer").get("/audit.csv?what=run.requested").streaming_content
    ).decode()
    assert ",'=1+1" in text


def test_audit_event_shows_what_changed_and_from_where(as_role, environment):
    check = HealthCheck.objects.get()
    edit = reverse("health-check-edit", args=[environment.pk, check.pk])
    fields = {"name": "amounts", "kind": "sql", "address": "SELECT 1 AS one", "timeout_seconds": 9}
    assert as_role("admin").post(edit, fields).status_code == 302
    event = AuditEvent.objects.get(action="health_check.changed")

    assert event.changes() == [
        ("address", "SELECT count(amount) FROM targets", "SELECT 1 AS one"),
        ("is_enabled", "True", "False"),
        ("timeout_seconds", "5", "9"),
    ]
    client = as_role("viewer")
    page = client.get(reverse("audit-event", args=[event.pk])).content.decode()
    for text in ("SELECT count(amount) FROM targets", "SELECT 1 AS one", "127.0.0.1"):
        assert text in page
    assert reverse("audit-event", args=[event.pk]) in client.get("/audit").content.decode()
    exported = b"".join(client.get("/audit.csv").streaming_content).decode()
    assert '""address"": ""SELECT 1 AS one""' in exported


def test_audit_event_leaves_the_password_of_an_address_out(as_role, environment):
    check = HealthCheck.objects.get()
    edit = reverse("health-check-edit", args=[environment.pk, check.pk])
    address = "https://probe:se:cr@et@localhost/health?deep=1"
    fields = {"name": "h", "kind": "http", "address": address, "timeout_seconds": 9}
    client = as_role("admin")
    assert client.post(edit, fields).status_code == 302

    event = AuditEvent.objects.get(action="health_check.changed")

    assert event.details["after"]["address"] == "https://probe:…@localhost/health?deep=1"
    check.refresh_from_db()
    assert check.address == address
    assert client.post(edit, fields).status_code == 302
    again = AuditEvent.objects.filter(action="health_check.changed").first()
    assert again.details["before"]["address"] == "https://probe:…@localhost/health?deep=1"


@pytest.mark.django_db
def test_audit_event_of_another_environment_is_not_shown(make_environment, client, as_role):
    one, other = make_environment("staging"), make_environment("production", position=2)
    for environment in (one, other):
        answer = as_role("admin").post(url(environment, "health-check-now"))
        assert answer.status_code == 302
    user = User.objects.create_user("limited")
    Membership.objects.create(user=user, role=Role.VIEWER, environment=one)
    client.force_login(user)
    seen, hidden = (AuditEvent.objects.get(environment=e) for e in (one, other))
    assert client.get(reverse("audit-event", args=[seen.pk])).status_code == 200
    assert client.get(reverse("audit-event", args=[hidden.pk])).status_code == 404
