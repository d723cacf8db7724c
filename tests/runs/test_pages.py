"""The page of a run: what moves on it, its log, and what can be done to it."""

from __future__ import annotations

import pytest
from django.urls import reverse

from backups_app import services as backups
from backups_app.models import Backup
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.models import Run
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
    text = b"".join(client.get(reverse("run-log-download", args=[run.pk])).streaming_content)
    assert "content equal" in text.decode()
    status = client.get(reverse("run-status", args=[run.pk]), headers={"HX-Request": "true"})
    assert "Succeeded" in status.content.decode()
    backup = Backup.objects.get()
    assert client.get(backup.get_absolute_url()).status_code == 200
    assert client.get(reverse("backup-restore", args=[backup.pk])).status_code == 403


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
