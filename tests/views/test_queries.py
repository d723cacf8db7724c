"""How many queries the pages take that people look at most, and that these do not grow."""

from __future__ import annotations

import re

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from migrations_app.reading.drift import drift_of
from opsconsole.access.models import Membership, User
from opsconsole.environments.models import Environment, Target
from opsconsole.events.models import AuditEvent
from opsconsole.health import services as health
from opsconsole.health.models import HealthResult
from opsconsole.runs.choices import RunKind, RunStatus
from opsconsole.runs.models import Run
from opsconsole.web.pages import PAGE_SIZE
from tests.conftest import rows_read
from tests.worker import check_drift, check_environment, observe_target

FINDING = "ALTER TABLE users ADD COLUMN note text;\nDROP TABLE targets;\n"


def copy_of(environment: Environment, number: int) -> Environment:
    copy = Environment.objects.create(
        application=environment.application,
        slug=f"e{number}",
        name=f"E{number}",
        position=number + 5,
        migrations_folder=environment.migrations_folder,
    )
    target = Target.objects.create(environment=copy, dsn_reference="env:NOWHERE")
    target.states.create(data={"migrations": [], "refusals": [], "server": {}})
    return copy


def sample(environment: Environment, *, is_healthy: bool = True, check_name: str = "x") -> None:
    health.keep_results(
        [
            HealthResult(
                environment=environment,
                check_name=check_name,
                is_healthy=is_healthy,
                latency_ms=1,
                summary="ok",
            )
        ]
    )


def queries(client, address: str) -> list[str]:
    client.get(address)
    with CaptureQueriesContext(connection) as asked:
        assert client.get(address).status_code == 200
    return [query["sql"] for query in asked.captured_queries]


@pytest.fixture
def busy(environment, migrate, folder, target):
    """An environment with a proven backup, a run, samples, drift, and a migration with findings."""
    folder.add("20250201000000_add", "ALTER TABLE users ADD COLUMN x int;\n")
    migrate()
    check_environment(environment)
    sample(environment, is_healthy=False)
    folder.add("20250301000000_drop", FINDING)
    state = observe_target(environment.targets.get())
    assert state.data["migrations"][-1]["findings"]
    target.execute("ALTER TABLE users ADD COLUMN phone text")
    check_drift(environment.targets.get())
    assert drift_of(environment.targets.get())
    return environment


def test_environment_page_takes_24_queries_at_most(as_role, busy):
    assert len(queries(as_role("admin"), busy.get_absolute_url())) <= 24


def test_environment_page_takes_as_many_queries_for_three_of_each_as_for_one(
    as_role, busy, operator, folder
):
    client = as_role("admin")
    few = queries(client, busy.get_absolute_url())
    for number in range(2):
        Run.objects.create(
            kind=RunKind.BACKUP,
            status=RunStatus.FAILED,
            environment=busy,
            target=busy.targets.get(),
            requested_by=operator,
            idempotency_key=f"r{number}",
        )
        sample(busy, check_name=f"c{number}", is_healthy=False)
        folder.add(f"2025040{number}000000_drop", FINDING)
    assert len(observe_target(busy.targets.get()).data["migrations"]) == 5
    assert len(queries(client, busy.get_absolute_url())) == len(few)


def test_run_that_needs_a_decision_is_on_the_environment_page_however_old(
    as_role, environment, operator
):
    statuses = [RunStatus.NEEDS_ATTENTION] + [RunStatus.SUCCEEDED] * 9
    for number, status in enumerate(statuses):
        Run.objects.create(
            kind=RunKind.BACKUP if number else RunKind.RESTORE,
            status=status,
            environment=environment,
            target=environment.targets.get(),
            requested_by=operator,
            idempotency_key=f"r{number}",
            summary=f"summary {number}",
        )
    page = as_role("viewer").get(environment.get_absolute_url())
    ids = list(Run.objects.order_by("-id").values_list("pk", flat=True))
    assert [run.pk for run in page.context["runs"]] == ids[:8]
    assert "summary 0" in page.content.decode()


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


def test_home_takes_as_many_queries_for_three_environments_as_for_one(as_role, busy):
    client = as_role("operator")
    few = queries(client, "/")
    for number in range(2):
        copy = copy_of(busy, number)
        for is_healthy in (True, False):
            sample(copy, is_healthy=is_healthy)
    assert len(queries(client, "/")) == len(few)


@pytest.mark.parametrize("name", ["home", "environment"])
def test_page_reads_no_more_samples_when_there_are_more(as_role, busy, name):
    client = as_role("operator")
    address = "/" if name == "home" else busy.get_absolute_url()
    for _time in range(300):
        sample(busy)
    asked = [sql for sql in queries(client, address) if '"opsconsole_healthresult"' in sql]
    with connection.cursor() as cursor:
        for sql in asked:
            cursor.execute(sql)
            assert len(cursor.fetchall()) <= 20
    assert len(asked) == (1 if name == "home" else 2)


@pytest.mark.parametrize("status", [RunStatus.RUNNING, RunStatus.FAILED, RunStatus.NEEDS_ATTENTION])
def test_run_status_takes_6_queries_at_most(as_role, busy, status):
    run = Run.objects.get()
    Run.objects.update(status=status)
    client, address = as_role("operator"), reverse("run-status", args=[run.pk])
    few = queries(client, address)
    assert len(few) <= 6
    for number in range(2):
        run.steps.create(position=50 + number, name="health")
    assert len(queries(client, address)) == len(few)


def test_rest_of_a_run_asks_for_itself_until_the_run_is_over(as_role, busy):
    run, client = Run.objects.get(), as_role("operator")
    status, rest = (reverse(name, args=[run.pk]) for name in ("run-status", "run-rest"))
    Run.objects.update(status=RunStatus.RUNNING)
    assert "HX-Trigger" not in client.get(status).headers
    moving = client.get(rest).content.decode()
    assert (f'hx-get="{rest}"' in moving, "every 5s, run-over from:body" in moving) == (True, True)
    Run.objects.update(status=RunStatus.SUCCEEDED)
    assert client.get(status).headers["HX-Trigger"] == '{"run-over": {}}'
    done = client.get(rest, headers={"HX-Request": "true"}).content.decode()
    assert ("hx-get" in done, run.summary in done, "requested run" in done) == (False, True, True)
    assert "1 migration was applied to staging" in done


def test_rest_of_a_run_is_not_for_who_may_not_see_its_environment(client, busy):
    user = User.objects.create_user("elsewhere")
    other = copy_of(busy, 1)
    Membership.objects.create(user=user, role="viewer", environment=other)
    client.force_login(user)
    for name in ("run", "run-status", "run-rest", "run-log"):
        address = reverse(name, args=[Run.objects.get().pk])
        assert client.get(address).status_code == 404, name


def test_way_back_and_the_run_that_it_is_of_name_each_other(as_role, busy):
    first = Run.objects.get()
    back = Run.objects.create(
        kind=RunKind.RESTORE,
        status=RunStatus.SUCCEEDED,
        environment=busy,
        target=busy.targets.get(),
        idempotency_key="back",
    )
    Run.objects.filter(pk=first.pk).update(way_back=back)
    client = as_role("viewer")
    assert f'way back of <a href="{first.get_absolute_url()}"' in _text(client, back)
    assert f'was chosen: <a href="{back.get_absolute_url()}"' in _text(client, first)


def _text(client, run: Run) -> str:
    return " ".join(client.get(reverse("run", args=[run.pk])).content.decode().split())


def test_home_reads_one_run_of_each_environment(as_role, environment):
    make = (
        "INSERT INTO opsconsole_run (environment_id, target_id, kind, operation, changes_target,"
        " excludes, parameters_version, status, reason, parameters, result, summary,"
        " idempotency_key, worker_name, log_seq) SELECT %s, %s, 'restore', 'restore', true,"
        " 'restore', 1, 'failed', '', '{}', '{}', '', 'k' || n, '', 0"
        " FROM generate_series(1, 5000) n"
    )
    with connection.cursor() as cursor:
        cursor.execute(make, [environment.pk, environment.targets.get().pk])
        cursor.execute("ANALYZE opsconsole_run")
    newest = Run.objects.latest("pk")
    assert f'href="{newest.get_absolute_url()}"' in as_role("viewer").get("/").content.decode()
    target = environment.targets.get()
    with CaptureQueriesContext(connection) as asked:
        (found,) = Run.objects.newest_of([target])
    assert found == newest
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {asked.captured_queries[0]['sql']}")
        plan = cursor.fetchone()[0][0]["Plan"]
    assert rows_read(plan, "opsconsole_run") == 2


MAKE_EVENTS = """
    INSERT INTO opsconsole_auditevent (action, outcome, actor_label, actor_kind, user_agent,
        request_id, object_type, object_id, object_label, reason, details, app_version)
    SELECT 'x', 'ok', CASE WHEN n % 2 = 0 THEN 'even' ELSE 'odd' END, 'user', '', '', '', '', '',
        '', '{}', '1' FROM generate_series(1, 5000) n
"""


def test_deep_page_of_a_list_reads_no_row_to_skip_it_and_turns_both_ways(as_role):
    with connection.cursor() as cursor:
        cursor.execute(MAKE_EVENTS)
        cursor.execute("ANALYZE opsconsole_auditevent")
    client = as_role("admin")

    def page(query: str) -> tuple[list[int], dict[str, str]]:
        answer = client.get(f"/audit{query}")
        turns = re.findall(r'href="(\?[^"]*)">(Older|Newer)<', answer.content.decode())
        links = {word: query.replace("&amp;", "&") for query, word in turns}
        return [row.pk for row in answer.context["page"].rows], links

    keys = list(AuditEvent.objects.filter(actor_label="even").values_list("pk", flat=True))
    first, turn = page("?who=even")
    assert (first, set(turn)) == (keys[:PAGE_SIZE], {"Older"})
    second, turn = page(turn["Older"])
    assert (second, set(turn)) == (keys[PAGE_SIZE : 2 * PAGE_SIZE], {"Older", "Newer"})
    assert page(turn["Newer"])[0] == first
    last, turn = page(f"?who=even&before={keys[-PAGE_SIZE] + 1}")
    assert (last, set(turn)) == (keys[-PAGE_SIZE:], {"Newer"})
    assert page(turn["Newer"])[0] == keys[-2 * PAGE_SIZE : -PAGE_SIZE]
    with CaptureQueriesContext(connection) as asked:
        page(f"?before={keys[1250]}")
    with connection.cursor() as cursor:
        for sql in (q["sql"] for q in asked if 'FROM "opsconsole_auditevent"' in q["sql"]):
            cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}")
            assert (
                rows_read(cursor.fetchone()[0][0]["Plan"], "opsconsole_auditevent") <= PAGE_SIZE + 1
            )
