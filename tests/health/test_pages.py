"""What a page can ask of the health checks."""

from __future__ import annotations

import pytest
from django.urls import reverse

from tests.conftest import url


def test_health_asked_for_while_the_broker_is_away_is_503(as_role, environment, broker):
    broker.away = True
    answer = as_role("operator").post(url(environment, "health-check-now"))
    assert (answer.status_code, "the broker does not answer" in answer.content.decode()) == (
        503,
        True,
    )


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"timeout_seconds": "31"}, "Give 1 to 30 seconds."),
        ({"timeout_seconds": "0"}, "Give 1 to 30 seconds."),
        ({"address": "SELECT 1; DELETE FROM users"}, "Give one statement."),
    ],
)
def test_check_that_would_not_be_asked_is_not_saved(as_role, environment, wrong, words):
    given = {"name": "c", "kind": "sql", "address": "SELECT 1", "timeout_seconds": "5"} | wrong
    answer = as_role("admin").post(reverse("health-check-add", args=[environment.pk]), given)
    assert (answer.status_code, words in answer.content.decode()) == (422, True)
    assert environment.health_checks.count() == 1
