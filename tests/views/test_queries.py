"""How many queries the pages take that people look at most, and that these do not grow."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from migrations_app.observation import observe_target
from opsconsole.models import Environment, HealthResult, Membership, Run
from opsconsole.services import health

FINDING = "ALTER TABLE users ADD COLUMN note text;\nDROP TABLE targets;\n"


def sample(environment: Environment, *, is_healthy: bool = True, check_name: str = "x") -> None:
    health.keep_results(
        [
            HealthResult(
                environment=environment, check_name=check_name, is_healthy=is_healthy,
                latency_ms=1, summary="ok",
            )
        ]
    )  # fmt: skip


def queries(client, address: str) -> list[str]:
    client.get(address)
    with CaptureQueriesContext(connection) as asked:
        assert client.get(address).status_code == 200
    return [query["sql"] for query in asked.captured_queries]


@pytest.fixture
def busy(environment, migrate, folder):
    """An environment with a proven backup, a run, samples, and a migration with findings."""
    folder.add("20250201000000_add", "ALTER TABLE users ADD COLUMN x int;\n")
    migrate()
    health.check_environment(environment)
    sample(environment, is_healthy=False)
    folder.add("20250301000000_drop", FINDING)
    state = observe_target(environment.target)
    assert state.data["migrations"][-1]["findings"]
    return environment


@pytest.mark.parametrize("role", ["viewer", "admin"])
def test_roles_are_read_once_a_request(as_role, busy, role):
    for address in (busy.get_absolute_url(), reverse("run", args=[Run.objects.get().pk])):
        asked = queries(as_role(role), address)
        assert len([sql for sql in asked if '"opsconsole_membership"' in sql]) == 1, address


def test_role_that_is_taken_away_is_gone_with_the_next_request(as_role, environment):
    client = as_role("viewer")
    assert client.get(environment.get_absolute_url()).status_code == 200
    Membership.objects.all().delete()
    assert client.get("/").status_code == 403
    assert client.get(environment.get_absolute_url()).status_code == 403


def test_run_of_an_archived_environment_is_not_shown(as_role, busy):
    client, address = as_role("admin"), reverse("run", args=[Run.objects.get().pk])
    assert client.get(address).status_code == 200
    Environment.objects.update(archived_at=timezone.now())
    assert client.get(address).status_code == 404
