"""The page of a run: what moves on it, its log, and what can be done to it."""

from __future__ import annotations

import re

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from backups_app import services as backups
from backups_app.models import Backup
from opsconsole.events.models import AuditEvent
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.models import Run
from tests.conftest import rows_read
from tests.worker import execute_run


@pytest.mark.usefixtures("transactional_db")
def test_run_page_fragments_and_log(as_role, environment, operator):
    run = backups.request_backup(
        actor=operator, target=environment.targets.get(), idempotency_key="b" * 32
    )
    client = as_role("viewer")
    moving = client.get(reverse("run", args=[run.pk])).content.decode()
    assert "every 1s" in moving
    assert client.get(reverse("run-log", args=[run.pk])).status_code == 204
    execute_run(run.pk, "w")
    done = client.get(reverse("run", args=[run.pk])).content.decode()
    assert "every 1s" not in done
    tail = client.get(reverse("run-log", args=[run.pk]) + "?after=2").content.decode()
    assert 'id="L3"' in tail
    assert 'id="L2"' not in tail
    # The last of its four steps says nothing.
    assert (heads(moving), heads(done)) == ([], ["step-0", "step-1", "step-2"])
    text = b"".join(client.get(reverse("run-log-download", args=[run.pk])).streaming_content)
    assert "content equal" in text.decode()
    status = client.get(reverse("run-status", args=[run.pk]), headers={"HX-Request": "true"})
    assert "Succeeded" in status.content.decode()
    backup = Backup.objects.get()
    assert client.get(backup.get_absolute_url()).status_code == 200
    assert client.get(reverse("backup-restore", args=[backup.pk])).status_code == 403


def heads(page: str) -> list[str]:
    return re.findall(r'<summary id="([\w-]+)"', page)


def test_run_of_a_protected_environment_is_not_cancelled_by_one_click(
    as_role, environment, operator
):
    environment.is_protected = True
    environment.save()
    run = backups.request_backup(
        actor=operator, target=environment.targets.get(), idempotency_key="p" * 32
    )
    client, address = as_role("operator"), reverse("run-cancel", args=[run.pk])
    asked = client.post(address)
    page = asked.content.decode()
    assert (asked.status_code, 'name="sure"' in page) == (200, True)
    assert "Migrations that are applied stay applied" in page
    run.refresh_from_db()
    assert run.status == RunStatus.QUEUED
    assert client.post(address, {"sure": "yes", "reason": "too late today"}).status_code == 302
    run.refresh_from_db()
    assert run.status == RunStatus.CANCELLED
    event = AuditEvent.objects.get(action="run.cancel_requested")
    assert event.reason == "too late today"


def test_queued_run_shows_its_steps_to_come(as_role, environment, operator):
    run = backups.request_backup(
        actor=operator, target=environment.targets.get(), idempotency_key="q" * 32
    )
    page = _page(as_role("viewer"), run)
    steps = re.findall(r"<b>(\w+)<span", page.partition('class="steps"')[2].partition("</ol>")[0])
    assert steps == ["Preflight", "Backup", "Prove", "Copy"]
    assert not run.steps.exists()
    Run.objects.update(operation="of_another_version")
    assert "Waiting for a worker" in _page(as_role("viewer"), run)


def test_cancel_and_decide_from_the_page(as_role, environment, operator):
    run = backups.request_backup(
        actor=operator, target=environment.targets.get(), idempotency_key="b" * 32
    )
    client = as_role("operator")
    assert client.post(reverse("run-cancel", args=[run.pk])).status_code == 302
    assert client.post(reverse("run-cancel", args=[run.pk])).status_code == 409
    Run.objects.update(status=RunStatus.NEEDS_ATTENTION)
    page = client.get(reverse("run", args=[run.pk])).content.decode()
    assert page.index("needs a decision") < page.index("Settle it without changing the database")
    assert page.index("Settle it without changing the database") < page.index('id="log"')
    assert '<option value="">Choose how it ended</option>' in page
    assert 'href="#decision"' in page
    assert 'href="#decision"' not in _page(as_role("viewer"), run)
    decide = reverse("run-decide", args=[run.pk])
    assert client.post(decide, {"status": "nonsense"}).status_code == 422
    assert client.post(decide, {"status": "failed", "reason": ""}).status_code == 422
    assert client.post(decide, {"status": "failed", "reason": "seen"}).status_code == 302


def _page(client, run: Run) -> str:
    return client.get(reverse("run", args=[run.pk])).content.decode()


CHUNKS = """
    INSERT INTO opsconsole_logchunk (run_id, first_seq, last_seq, lines)
    SELECT %s, n * 10 - 9, n * 10, (
        SELECT jsonb_agg(jsonb_build_array(0, '', 'line ' || l))
        FROM generate_series(n * 10 - 9, n * 10) l
    ) FROM generate_series(1, 2000) n
"""


@pytest.mark.parametrize("after", [0, 4995, 12000, 19990, 20000])
def test_part_of_a_log_is_read_without_the_rest_of_it(as_role, environment, operator, after):
    run = backups.request_backup(
        actor=operator, target=environment.targets.get(), idempotency_key="b" * 32
    )
    with connection.cursor() as cursor:
        cursor.execute(CHUNKS, [run.pk])
        cursor.execute("ANALYZE opsconsole_logchunk")
    Run.objects.update(status=RunStatus.SUCCEEDED, log_seq=20_000)
    with CaptureQueriesContext(connection) as asked:
        page = as_role("viewer").get(reverse("run-log", args=[run.pk]), {"after": after})
    numbers = [line.number for part in page.context["log"] for line in part.lines]
    assert numbers == list(range(after + 1, min(after + 2000, 20_000) + 1))
    (sql,) = [q["sql"] for q in asked.captured_queries if '"opsconsole_logchunk"' in q["sql"]]
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}")
        assert 0 < rows_read(cursor.fetchone()[0][0]["Plan"], "opsconsole_logchunk_0") <= 205
