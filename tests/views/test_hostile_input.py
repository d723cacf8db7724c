"""Whatever text arrives at whatever address: a clear answer, never the server's own error."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from django.core.files.base import ContentFile
from django.test import Client
from django.urls import URLPattern, get_resolver, reverse

from backups_app import services as backups
from backups_app.models import Storage
from opsconsole.environments.models import Draft, Environment
from opsconsole.events.models import AuditEvent
from opsconsole.health.models import HealthCheck
from opsconsole.runs.models import Run
from tests.worker import execute_run, observe_target

TEXTS = ["²", "9" * 5000, "9" * 18, "a\x00b", "é" * 600, "\r\nX: \u202e%'{}"]
PARAMETERS = {
    "q",
    "page",
    "after",
    "before",
    "environment",
    "who",
    "what",
    "since",
    "until",
    "status",
    "kind",
    "state",
    "next",
    "plan",
    "key",
    "pid",
}
LAST_OF_ALL = {
    "application-archive",
    "environment-archive",
    "health-check-delete",
    "role-revoke",
    "person-lock-out",
    "sign-out",
}


def patterns(among: list) -> Iterator[URLPattern]:
    for entry in among:
        if hasattr(entry, "url_patterns"):
            yield from patterns(entry.url_patterns)
        elif entry.name and entry.name not in LAST_OF_ALL:
            yield entry


def addresses(environment: Environment, run: Run, migration: str) -> list[str]:
    """Every address of the console, with what is there to see in it."""
    there = {
        "application": environment.application.slug,
        "environment": environment.slug,
        "name": migration,
        "environment_id": environment.pk,
        "application_id": environment.application_id,
        "run_id": run.pk,
        "event_id": AuditEvent.objects.first().pk,
    }
    backup, check = run.result["backup"], HealthCheck.objects.get().pk
    keys = {
        "application": environment.application_id, "repository": environment.application_id,
        "lint": environment.application_id, "environment": environment.pk,
        "connection": environment.pk, "test": environment.pk, "health": check,
        "backup": backup, "restore": backup, "storage": Storage.objects.first().pk,
        "draft": Draft.objects.exclude(application=None).get().pk,
        "source": Draft.objects.get(application=None).pk,
    }  # fmt: skip
    found = []
    for pattern in patterns(get_resolver().url_patterns):
        there["pk"] = keys.get(pattern.name.partition("-")[0], 1)
        given = {name: there.get(name, 1) for name in pattern.pattern.converters}
        found.append(reverse(pattern.name, kwargs=given))
    return found


def answer_of(client: Client, method: str, address: str, data: dict) -> int:
    answer = getattr(client, method)(address, data)
    if answer.streaming:
        b"".join(answer.streaming_content)
    return answer.status_code


@pytest.fixture
def places(transactional_db, environment, folder, operator) -> list[str]:
    folder.add("20250201000000_add", 'ALTER TABLE "users" ADD COLUMN "x" int;\n')
    run = backups.request_backup(
        actor=operator, target=environment.targets.get(), idempotency_key="b" * 32
    )
    execute_run(run.pk, "worker")
    run.refresh_from_db()
    observe_target(environment.targets.get())
    for application in (None, environment.application):
        Draft.objects.create(application=application, made_by=operator, tried_at=run.created_at)
    return addresses(environment, run, "20250201000000_add")


def test_hostile_text_gets_no_server_error_anywhere(places, as_role):
    client = as_role("admin")
    client.raise_request_exception = False
    pages = [client.get(place) for place in places if place not in {"/health", "/audit.csv"}]
    assert sum(page.status_code == 200 for page in pages) > 35, len(pages)
    names = PARAMETERS.union(
        *(re.findall(r'\bname="([\w-]+)"', p.content.decode()) for p in pages if not p.streaming)
    )
    wrong = [
        (method, place, text[:8], status)
        for text in TEXTS
        for place in places
        for method in ("get", "post")
        if (status := answer_of(client, method, place, dict.fromkeys(names, text))) >= 500
        and place != "/health"
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("\u202e/../x\x00", 422),
        ("é" * 300 + ".dump", 422),
        ("..", 422),
        ("a\r\nX: y", 422),
        (" ", 400),
    ],
)
def test_hostile_file_is_refused_on_its_page(environment, as_role, name, status):
    client = as_role("admin")
    place = reverse("backup-import", args=[environment.application.slug, environment.slug])
    answer = client.post(place, {"file": ContentFile(b"\x00" * 9, name), "reason": "x"})
    assert answer.status_code == status
    assert not Run.objects.exists()
