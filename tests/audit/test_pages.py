"""The audit trail as people read it, and how much of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from backups_app import services as backups
from opsconsole.access.choices import Role
from opsconsole.access.models import Membership, User
from opsconsole.audit.visibility import visible_events
from opsconsole.environments.events import TARGET_TESTED
from opsconsole.events.catalogue import CATALOGUE, Audience
from opsconsole.events.models import AuditEvent
from opsconsole.events.recording import record


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
    run = backups.request_backup(actor=operator, environment=environment, idempotency_key="b" * 32)
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
    run = backups.request_backup(actor=operator, environment=environment, idempotency_key="b" * 32)
    client, address = as_role("viewer"), address.format(run=run.pk)
    few = queries(client, address)
    for _number in range(5):
        record(TARGET_TESTED, actor=operator, environment=environment, run=run)
        AuditEvent.objects.create(
            action=TARGET_TESTED.key, actor_label="ada", actor_kind="user", app_version="0.1.0",
            environment=environment, run=run,
        )  # fmt: skip
    assert len(queries(client, address)) == len(few)
