"""What a page can ask of the health checks."""

from __future__ import annotations

from tests.conftest import url


def test_health_asked_for_while_the_broker_is_away_is_503(as_role, environment, broker):
    broker.away = True
    answer = as_role("operator").post(url(environment, "health-check-now"))
    assert (answer.status_code, "the broker does not answer" in answer.content.decode()) == (
        503,
        True,
    )
