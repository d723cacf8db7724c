"""Findings in the browser: shown, waived, withdrawn; the levels of rules."""

from __future__ import annotations

import pytest

from migrations_app.models import LintLevel, Waiver
from opsconsole.access.models import Membership, User
from opsconsole.events.models import AuditEvent
from tests.worker import observe_target

NAME = "20990101000000_drop_name"
PAGE = f"/applications/shop/staging/migrations/{NAME}"


@pytest.fixture
def dropping(environment, folder):
    folder.add(NAME, "-- <b>unwanted</b>\nALTER TABLE users DROP COLUMN name;")
    observe_target(environment.targets.get())
    return environment


def test_migration_page_says_what_each_statement_does(dropping, as_role):
    page = as_role("viewer").get(PAGE).content.decode()
    assert "ACCESS EXCLUSIVE, reads and writes wait" in page
    assert "Destroys the values of users.name" in page
    assert "&lt;b&gt;unwanted&lt;/b&gt;" in page
    assert "Waive the findings" not in page


def test_reviewer_waives_and_withdraws_in_the_browser(dropping, as_role):
    client = as_role("reviewer")
    client.post(f"{PAGE}/waive", {"rule": "destroys-data", "reason": "exported before"})
    waiver = Waiver.objects.get()
    page = client.get(PAGE).content.decode()
    assert "exported before" in page
    assert "<option>destroys-data</option>" not in page
    assert "<option>breaks-application</option>" in page

    client.post(f"{PAGE}/waivers/{waiver.pk}/withdraw")
    assert Waiver.objects.count() == 0
    actions = list(AuditEvent.objects.order_by("pk").values_list("action", flat=True))
    assert [a for a in actions if a.startswith("finding.")] == [
        "finding.waived",
        "finding.waiver_withdrawn",
    ]


def test_operator_is_refused_to_waive(dropping, as_role):
    answer = as_role("operator").post(f"{PAGE}/waive", {"rule": "destroys-data", "reason": "x"})
    assert (answer.status_code, Waiver.objects.count()) == (403, 0)


@pytest.mark.parametrize(("scope", "count"), [("environment", 0), ("application", 1)])
def test_waiver_for_every_environment_takes_the_application(dropping, client, scope, count):
    place = {"environment": dropping, "application": dropping.application}[scope]
    user = User.objects.create_user("limited")
    Membership.objects.create(user=user, role="reviewer", **{scope: place})
    client.force_login(user)
    answer = client.post(f"{PAGE}/waive", {"rule": "destroys-data", "reason": "x"})
    assert (answer.status_code, Waiver.objects.count()) == (302 if count else 403, count)


def test_admin_sets_levels_and_the_confirm_page_names_what_stops(dropping, as_role):
    admin = as_role("admin")
    url = f"/settings/applications/{dropping.application_id}/lint"
    assert admin.get(url).status_code == 200
    admin.post(url, {"rule-destroys-data": "block", "rule-breaks-application": "off"})
    assert dict(LintLevel.objects.values_list("rule", "level")) == {
        "destroys-data": "block",
        "breaks-application": "off",
    }
    page = admin.get("/applications/shop/staging/migrate").content.decode()
    assert f"{NAME} line 2: Destroys the values of users.name" in page
    assert "Migrate staging: 1 pending" not in page

    assert admin.post(url, {"rule-destroys-data": "sometimes"}).status_code == 422
    assert as_role("operator").get(url).status_code == 403


def test_environment_page_asks_as_often_for_one_pending_migration_as_for_three(
    environment, folder, as_role
):
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    client = as_role("viewer")

    def queries() -> int:
        observe_target(environment.targets.get())
        with CaptureQueriesContext(connection) as asked:
            client.get("/applications/shop/staging")
        return len(asked)

    folder.add("20990101000000_a", "ALTER TABLE users DROP COLUMN name;")
    queries()
    one = queries()
    folder.add("20990101000001_b", "ALTER TABLE users ADD COLUMN b int;")
    folder.add("20990101000002_c", "DROP TABLE targets;")
    assert queries() == one
