"""The page that shows a plan and asks for it: what it takes, and what it refuses."""

from __future__ import annotations

import re

import pytest
from django.test import Client
from django.utils import timezone

from opsconsole.environments.models import Environment
from opsconsole.runs.models import Run
from tests.conftest import url
from tests.worker import observe_target


def test_migrate_button_and_sql_are_on_the_page(as_role, seen, folder):
    folder.add("20250201000000_add", "ALTER TABLE users ADD COLUMN x int; -- <b>no</b>")
    observe_target(seen.targets.get())
    page = as_role("operator").get(seen.get_absolute_url()).content.decode()
    assert "Migrate staging: 1 pending" in page
    assert "&lt;b&gt;no&lt;/b&gt;" in page


def confirm_form(client: Client, environment: Environment) -> dict[str, str]:
    page = client.get(url(environment, "migrate")).content.decode()
    return dict(re.findall(r'name="(plan|key)" value="([0-9a-f]+)"', page))


@pytest.fixture
def pending(seen, folder, settings):
    settings.STATE_FRESH_SECONDS = 60
    folder.add("20250201000000_add", "ALTER TABLE users ADD COLUMN x int;\n")
    observe_target(seen.targets.get())
    return seen


def test_confirmed_plan_is_queued(as_role, pending):
    client = as_role("operator")
    answer = client.post(url(pending, "migrate"), confirm_form(client, pending))
    assert answer.status_code == 302
    assert Run.objects.get().plan.names == ["20250201000000_add"]


def test_plan_that_changed_since_it_was_shown_is_refused_with_what_changed(
    as_role, pending, folder
):
    client = as_role("operator")
    form = confirm_form(client, pending)
    (folder.path / "20250201000000_add" / "migration.sql").write_text("SELECT 1;\n")
    observe_target(pending.targets.get())
    answer = client.post(url(pending, "migrate"), form)
    assert answer.status_code == 409
    assert "20250201000000_add was changed: sha256" in answer.content.decode()
    assert not Run.objects.exists()


def test_unknown_plan_is_refused(as_role, pending):
    answer = as_role("operator").post(url(pending, "migrate"), {"plan": "0" * 64})
    assert answer.status_code == 409


def test_protected_environment_asks_for_name_and_checklist_and_loses_nothing(as_role, pending):
    Environment.objects.update(is_protected=True)
    client = as_role("operator")
    form = confirm_form(client, pending)
    answer = client.post(url(pending, "migrate"), form | {"reason": "my reason"})
    page = answer.content.decode()
    assert answer.status_code == 422
    assert 'value="my reason"' in page
    said = re.findall(r'<li>\s*<a href="#([\w-]+)">[^<]*</a>:\s*<span>([^<]*)</span>', page)
    asked = ("tested_earlier", "staging_validated", "team_notified")
    name = ("id_typed_name", "Type staging, the environment&#x27;s short name.")
    assert said == [*((f"id_check-{key}", "Tick it once it is so.") for key in asked), name]
    for field, _problem in said:
        assert f'id="{field}"' in page, field

    ticks = {f"check-{key}": "on" for key in asked}
    answer = client.post(url(pending, "migrate"), form | ticks | {"typed_name": "staging"})
    assert answer.status_code == 422
    assert answer.content.decode().count("Say how you know.") == 2 * len(asked)

    ticked = ticks | {f"note-{key}": "asked in chat" for key in asked}
    answer = client.post(url(pending, "migrate"), form | ticked | {"typed_name": "staging"})
    assert answer.status_code == 302, answer.content.decode()
    kept = Run.objects.get().parameters["checklist"]
    assert (kept["team_notified"]["note"], kept["backup"]["by"]) == ("asked in chat", "console")


def test_confirm_page_reads_the_database_anew_when_the_state_is_old(as_role, pending):
    pending.targets.get().states.update(observed_at=timezone.now() - timezone.timedelta(minutes=5))
    page = as_role("operator").get(url(pending, "migrate")).content.decode()
    assert "Reading the current state of the database" in page


def test_nothing_pending_is_said_on_the_confirm_page(as_role, seen, settings):
    settings.STATE_FRESH_SECONDS = 60
    assert "nothing is pending" in as_role("operator").get(url(seen, "migrate")).content.decode()
