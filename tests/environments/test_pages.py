"""The pages that set applications and environments up, and test their connections."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse

from opsconsole.environments.models import Environment
from opsconsole.environments.verdicts import Verdict, verdicts_of
from opsconsole.events.models import AuditEvent
from opsconsole.health.models import HealthCheck
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.models import Run
from opsconsole.work import services as work
from opsconsole.work.models import WorkItem
from tests.worker import do_work, observe_target


def test_admin_adds_a_check_and_changes_an_environment(as_role, environment):
    client = as_role("admin")
    HealthCheck.objects.all().delete()
    check = reverse("health-check-add", args=[environment.pk])
    bad = {"kind": "http", "address": "file:///etc/passwd", "timeout_seconds": 5}
    assert client.post(check, bad).status_code == 422
    for wrong in ("http://[::1", "http://localhost:99999/health"):
        answer = client.post(check, bad | {"address": wrong})
        assert (answer.status_code, "is not an address" in answer.content.decode()) == (422, True)
    good = bad | {"address": "http://localhost:1/health", "is_enabled": "on"}
    for _twice in range(2):
        answer = client.post(check, good)
        assert (answer.status_code, answer.headers["location"]) == (
            302,
            environment.get_absolute_url(),
        )
    names = HealthCheck.objects.order_by("pk").values_list("name", flat=True)
    assert list(names) == ["health", "health 2"]
    assert client.post(check, good | {"name": "health"}).status_code == 422
    edit = reverse("environment-edit", args=[environment.application_id, environment.pk])
    fields = {
        "name": "Development", "slug": "dev", "position": 1, "auto_rollback": "no_writes",
        "settle_seconds": 5, "queue": "runs",
    }  # fmt: skip
    before = environment.name
    assert client.post(edit, fields).status_code == 302
    changed = AuditEvent.objects.get(action="environment.changed")
    assert (changed.details["before"]["name"], changed.details["after"]["name"]) == (
        before,
        "Development",
    )
    assert changed.details["address_changed"] is False


def test_settings_page_names_the_database_that_was_read(as_role, seen):
    page = as_role("admin").get(reverse("settings")).content.decode()
    assert seen.targets.get().database_name in page
    assert "not read yet" not in page


def test_archiving_is_refused_while_a_run_holds_the_target(as_role, environment, operator):
    client = as_role("admin")
    run = Run.objects.create(
        operation="migrate",
        kind="migrate",
        changes_target=True,
        environment=environment,
        target=environment.targets.get(),
        requested_by=operator,
        idempotency_key="x",
    )
    archive = reverse("environment-archive", args=[environment.pk])
    assert client.post(archive).status_code == 409
    application = reverse("application-archive", args=[environment.application.pk])
    assert client.post(application).status_code == 409
    Run.objects.filter(pk=run.pk).update(status=RunStatus.FAILED)
    check = HealthCheck.objects.get()
    assert client.post(reverse("health-check-delete", args=[check.pk])).status_code == 302
    assert client.post(archive).status_code == 302
    assert client.get(environment.get_absolute_url()).status_code == 404
    assert client.post(application).status_code == 302


def test_address_is_not_changed_under_a_run_and_what_was_typed_comes_back(
    as_role, environment, operator, database
):
    Run.objects.create(
        operation="migrate",
        kind="migrate",
        changes_target=True,
        environment=environment,
        target=environment.targets.get(),
        requested_by=operator,
        idempotency_key="x",
    )
    before = environment.targets.get().dsn_encrypted
    fields = {
        "name": "Renamed", "slug": "staging", "position": 1, "auto_rollback": "no_writes",
        "migrations_folder": environment.migrations_folder, "settle_seconds": 5, "queue": "runs",
    }  # fmt: skip
    edit = reverse("environment-edit", args=[environment.application_id, environment.pk])
    answer = as_role("admin").post(edit, fields | {"address": database()})
    environment.refresh_from_db()
    assert (answer.status_code, environment.name) == (409, "Staging")
    assert environment.targets.get().dsn_encrypted == before
    page = answer.content.decode()
    for kept in ('value="Renamed"', ">Save<", 'class="errors"'):
        assert kept in page, kept


def test_connection_test_shows_what_the_worker_found(as_role, seen):
    client = as_role("admin")
    page = client.get(reverse("connection-test", args=[seen.pk])).content.decode()
    assert "It works." in page
    seen.targets.get().states.create(error="connection refused")
    page = client.get(
        reverse("connection-test", args=[seen.pk]), headers={"HX-Request": "true"}
    ).content.decode()
    assert "connection refused" in page


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, ["It works."]),
        ({"is_superuser": True}, ["It works, with a risk:", "is a superuser"]),
        ({"may_create_databases": False}, ["not all will work", "CREATEDB;"]),
        ({"owns_database": False}, ["not all will work", "OWNER TO"]),
        ({"in_recovery": True}, ["not all will work", "is a standby", "address of the primary"]),
        ({"encoding": "SQL_ASCII"}, ["It works, with a risk:", "SQL_ASCII"]),
        ({"tools_problem": "no client tools"}, ["no client tools", "migrated where no backup"]),
    ],
)
def test_connection_test_says_what_will_not_work_and_the_remedy(as_role, seen, change, said):
    target = seen.targets.get()
    data = target.latest_state.data
    target.states.create(data=data | {"server": data["server"] | change})
    page = connection_page(as_role("admin"), seen)
    assert [words for words in said if words not in page] == []
    assert ("It works." in page) is (said == ["It works."])


@pytest.mark.parametrize("read", [{"is_direct": True}, {"is_direct": False}, {}])
def test_no_pooler_is_said_where_it_is_known_and_only_there(seen, read):
    target = seen.targets.get()
    facts = target.latest_state.data["server"]
    server = {name: value for name, value in facts.items() if name != "is_direct"} | read
    state = target.states.create(data=target.latest_state.data | {"server": server})
    said = Verdict("good", "No connection pooler in between.")
    assert (facts["is_direct"], said in verdicts_of(target, state)) == (
        True,
        bool(read.get("is_direct")),
    )


def test_folder_without_migrations_and_no_health_check_are_said(as_role, seen):
    target = seen.targets.get()
    target.states.create(data=target.latest_state.data | {"migrations": []})
    seen.health_checks.all().delete()
    page = connection_page(as_role("admin"), seen)
    assert "The migrations folder holds no migrations" in page
    assert "No health check" in page
    shown = as_role("viewer").get(seen.get_absolute_url()).content.decode()
    assert ("holds no migrations" in shown, "Up to date" in shown) == (True, False)


def test_two_environments_on_one_database_are_refused(seen, make_environment):
    other = make_environment("production", position=2)
    other.targets.update(dsn_encrypted=seen.targets.get().dsn_encrypted)
    state = observe_target(other.targets.get())
    assert "two environments on one database are refused" in state.error


def connection_page(client: Client, environment: Environment) -> str:
    return client.get(reverse("connection-test", args=[environment.pk])).content.decode()


def test_connection_test_asked_for_while_the_broker_is_away_waits_and_is_done(
    transactional_db, as_role, environment, broker
):
    client, broker.away = as_role("admin"), True
    assert "Not tested yet." in connection_page(client, environment)
    again = reverse("test-connection", args=[environment.pk])
    assert client.post(again).status_code == 302
    said = connection_page(client, environment)
    assert ("Waiting for a worker" in said, "is connecting" in said) == (True, False)

    broker.away = False
    (item_id,) = work.sweep()
    assert broker.sent == [("opsconsole.do_work", item_id)]
    do_work(item_id)

    assert "It works." in connection_page(client, environment)
    assert environment.targets.get().states.count() == 1
    assert AuditEvent.objects.filter(action="target.tested").count() == 1


def test_saved_environment_and_the_test_of_its_connection_are_one_act(
    transactional_db, as_role, environment, broker, database
):
    client, broker.away = as_role("admin"), True
    fields = {
        "name": "Staging", "slug": "staging", "position": 1, "auto_rollback": "no_writes",
        "migrations_folder": environment.migrations_folder, "settle_seconds": 5, "queue": "runs",
    }  # fmt: skip
    edit = reverse("environment-edit", args=[environment.application_id, environment.pk])
    answer = client.post(edit, fields | {"address": database()}, follow=True)
    assert "Saved. A worker will test the connection." in answer.content.decode()
    assert "Waiting for a worker" in answer.content.decode()
    item = WorkItem.objects.get()
    do_work(item.pk)
    assert environment.targets.get().states.count() == 1
