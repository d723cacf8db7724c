"""The gates of a migration: from what is stored, when it is asked, shown and claimed."""

from __future__ import annotations

import html
import uuid
from datetime import timedelta

import pytest
from django.conf import settings
from django.urls import reverse

from migrations_app.parameters import MigrateParameters
from migrations_app.services.migrations import current_plan, request_migrate
from opsconsole.environments.models import Environment, TargetState
from opsconsole.exceptions import Refused
from opsconsole.runs import services as runs
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.models import Run
from tests.worker import observe_target

TOO_OLD = timedelta(seconds=settings.OBSERVE_SECONDS * 11)


@pytest.fixture
def pending(environment, folder):
    folder.add("20250201000000_add_team", "ALTER TABLE users ADD COLUMN team text;")
    observe_target(environment.targets.get())
    return environment


def ask(actor, environment, **more) -> Run:
    plan, _state = current_plan(environment.targets.get())
    return request_migrate(
        actor=actor,
        target=environment.targets.get(),
        plan_hash=plan.hash,
        idempotency_key=uuid.uuid4().hex,
        **more,
    )


def refused(run: Run) -> str:
    """What the claim says; "" when the run is claimed."""
    claimed = runs.claim_run(run.pk, "w")
    run.refresh_from_db()
    assert (claimed is None) == (run.status == RunStatus.FAILED)
    return run.summary


def age(environment) -> None:
    for state in TargetState.objects.filter(target=environment.targets.get()):
        TargetState.objects.filter(pk=state.pk).update(observed_at=state.observed_at - TOO_OLD)


def test_reading_that_is_too_old_stops_the_request_and_not_the_claim(pending, operator):
    run = ask(operator, pending)
    age(pending)
    assert refused(run) == ""
    Run.objects.update(status=RunStatus.FAILED)
    with pytest.raises(Refused, match="read too long ago: open the page again"):
        ask(operator, pending)


def test_database_that_cannot_be_read_stops_the_request_and_not_the_claim(pending, operator):
    """At the claim it may be back already: preflight finds out."""
    run = ask(operator, pending)
    TargetState.objects.create(target=pending.targets.get(), error="no route to host")
    assert refused(run) == ""
    with pytest.raises(Refused, match="cannot be read: no route to host"):
        current_plan(pending.targets.get())


def test_claim_is_refused_when_the_history_has_failed_meanwhile(pending, operator, target):
    run = ask(operator, pending)
    target.execute(
        "INSERT INTO _prisma_migrations (id, checksum, migration_name) VALUES"
        " ('1', 'x', '20250201000000_add_team')"
    )
    observe_target(pending.targets.get())
    assert refused(run).startswith("Refused: 20250201000000_add_team failed and is unresolved")


def test_claim_is_refused_when_the_files_have_changed_meanwhile(pending, operator, folder):
    run = ask(operator, pending)
    folder.add("20250301000000_more", "SELECT 1;")
    observe_target(pending.targets.get())
    assert "it changed since it was shown: 20250301000000_more was added" in refused(run)


def test_claim_is_refused_when_the_environment_is_protected_meanwhile(pending, operator):
    run = ask(operator, pending)
    Environment.objects.update(is_protected=True)
    assert refused(run).startswith("Refused: Not confirmed yet: ")


def test_plan_is_asked_for_by_the_gates_also_without_the_confirm_page(environment, operator):
    with pytest.raises(Refused, match="has not been read yet"):
        runs.request_run(
            actor=operator,
            target=environment.targets.get(),
            parameters=MigrateParameters(),
            idempotency_key="k",
        )


def test_confirm_page_lists_the_gates_with_their_state_and_link(pending, as_role, target):
    url = reverse("migrate", args=["shop", "staging"])
    client = as_role("operator")
    page = client.get(url).content.decode()
    assert "Before it can run" in page
    assert page.count("icons.svg#circle-check") >= 4
    target.execute(
        "INSERT INTO _prisma_migrations (id, checksum, migration_name) VALUES"
        " ('1', 'x', '20250201000000_add_team')"
    )
    observe_target(pending.targets.get())
    page = html.unescape(client.get(url).content.decode())
    assert "History of migrations: 20250201000000_add_team failed and is unresolved" in page
    assert f'<a href="{pending.get_absolute_url()}">Open</a>' in page
