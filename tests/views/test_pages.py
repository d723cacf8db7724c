"""Every page: who may see it, what it answers to bad input, and how many queries it takes."""

from __future__ import annotations

import re
from unittest.mock import Mock

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.files.uploadhandler import MemoryFileUploadHandler
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from backups_app import services as backups
from backups_app.models import Backup
from opsconsole.access.choices import Role
from opsconsole.access.models import Membership, User
from opsconsole.environments.models import Application, Environment, Target
from opsconsole.events.models import AuditEvent
from opsconsole.health import services as health
from opsconsole.health.models import HealthCheck, HealthResult
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.models import Run
from opsconsole.work import services as work
from opsconsole.work.models import WorkItem
from tests.worker import do_work, execute_run, observe_target

PAGES = ("home", "runs", "backups", "audit", "preferences")
SETTINGS = ("settings", "application-add", "person-add", "role-add")


@pytest.fixture
def seen(environment):
    """The environment as a worker has read it."""
    observe_target(environment.targets.get())
    return environment


def url(environment: Environment, name: str, *more: str) -> str:
    return reverse(name, args=[environment.application.slug, environment.slug, *more])


@pytest.mark.django_db
@pytest.mark.parametrize("name", [*PAGES, *SETTINGS])
def test_pages_ask_a_stranger_to_sign_in(client, name):
    answer = client.get(reverse(name))
    assert answer.status_code == 302
    assert answer.headers["location"].startswith("/sign-in?next=")


@pytest.mark.parametrize("role", Role.values)
def test_every_role_sees_the_pages_and_only_admins_the_settings(as_role, role, seen):
    client = as_role(role)
    for name in PAGES:
        assert client.get(reverse(name)).status_code == 200, name
    assert client.get(seen.get_absolute_url()).status_code == 200
    expected = 200 if role == Role.ADMIN else 403
    for name in SETTINGS:
        assert client.get(reverse(name)).status_code == expected, name


@pytest.mark.parametrize("role", [Role.VIEWER, Role.REVIEWER])
def test_viewers_and_reviewers_may_not_change_anything(as_role, role, seen):
    client = as_role(role)
    for name in ("migrate", "back-up"):
        assert client.post(url(seen, name)).status_code == 403
    assert not Run.objects.exists()


@pytest.mark.django_db
def test_member_of_one_environment_sees_only_that_one(make_environment, client):
    one, other = make_environment("staging"), make_environment("production", position=2)
    user = User.objects.create_user("limited")
    Membership.objects.create(user=user, role=Role.OPERATOR, environment=one)
    client.force_login(user)
    assert client.get(one.get_absolute_url()).status_code == 200
    assert client.get(other.get_absolute_url()).status_code == 404
    assert "Production" not in client.get("/").content.decode()
    assert client.get("/audit").status_code == 200


def test_empty_console_says_what_will_appear(as_role):
    page = as_role("admin").get("/").content.decode()
    assert "No application yet" in page
    assert "No worker is running" in page


def make_many(environment: Environment, count: int) -> None:
    for number in range(count):
        copy = Environment.objects.create(
            application=environment.application, slug=f"e{number}", name=f"E{number}",
            position=number + 5, migrations_folder=environment.migrations_folder,
        )  # fmt: skip
        target = Target.objects.create(environment=copy, dsn_reference="env:NOWHERE")
        migrations = [{"name": "20250101000000_init", "state": "applied", "by_hand": False}]
        target.states.create(data={"migrations": migrations, "refusals": [], "server": {}})
        sample = HealthResult(
            environment=copy, check_name="x", is_healthy=True, latency_ms=1, summary="ok"
        )
        health.keep_results([sample])


@pytest.mark.parametrize("path", ["/", "/runs", "/backups", "/find?q=init"])
def test_queries_do_not_grow_with_the_rows(as_role, seen, path, django_assert_num_queries):
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    client = as_role("operator")
    make_many(seen, 1)
    client.get(path)
    with CaptureQueriesContext(
        connection,
    ) as few:
        client.get(path)
    Environment.objects.filter(slug="e0").update(slug="first")
    make_many(seen, 3)
    with django_assert_num_queries(len(few)):
        client.get(path)


def test_migrate_button_and_sql_are_on_the_page(as_role, seen, folder):
    folder.add("20250201000000_add", "ALTER TABLE users ADD COLUMN x int; -- <b>no</b>")
    observe_target(seen.targets.get())
    page = as_role("operator").get(seen.get_absolute_url()).content.decode()
    assert "Migrate staging: 1 pending" in page
    assert "&lt;b&gt;no&lt;/b&gt;" in page


def confirm_form(client: Client, environment: Environment) -> dict[str, str]:
    import re

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
    assert answer.status_code == 422
    assert "Type the environment&#x27;s name" in answer.content.decode()
    assert 'value="my reason"' in answer.content.decode()
    answer = client.post(url(pending, "migrate"), form | {"typed_name": "staging"})
    assert answer.status_code == 422
    assert "Not confirmed yet" in answer.content.decode()

    ticked = {
        f"{kind}-{key}": "asked in chat"
        for key in ("tested_earlier", "staging_validated", "team_notified")
        for kind in ("check", "note")
    }
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


@pytest.mark.usefixtures("transactional_db")
def test_run_page_fragments_and_log(as_role, environment, operator):
    run = backups.request_backup(actor=operator, environment=environment, idempotency_key="b" * 32)
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


@pytest.mark.usefixtures("transactional_db")
def test_restore_form_keeps_what_was_typed_and_queues_when_right(as_role, environment, operator):
    run = backups.request_backup(actor=operator, environment=environment, idempotency_key="b" * 32)
    execute_run(run.pk, "w")
    address = reverse("backup-restore", args=[Backup.objects.get().pk])
    client = as_role("operator")
    form = {"environment": environment.pk, "reason": "try", "typed_name": "wrong", "key": "k" * 32}
    answer = client.post(address, form)
    assert answer.status_code == 422
    assert 'value="try"' in answer.content.decode()
    assert client.post(address, {}).status_code == 422
    assert client.post(address, form | {"typed_name": "staging"}).status_code == 302
    assert client.post(reverse("backup-prove", args=[Backup.objects.get().pk])).status_code == 302


def test_cancel_and_decide_from_the_page(as_role, environment, operator):
    run = backups.request_backup(actor=operator, environment=environment, idempotency_key="b" * 32)
    client = as_role("operator")
    assert client.post(reverse("run-cancel", args=[run.pk])).status_code == 302
    assert client.post(reverse("run-cancel", args=[run.pk])).status_code == 409
    Run.objects.update(status=RunStatus.NEEDS_ATTENTION)
    page = client.get(reverse("run", args=[run.pk])).content.decode()
    assert "Settle it without changing the database" in page
    decide = reverse("run-decide", args=[run.pk])
    assert client.post(decide, {"status": "nonsense"}).status_code == 422
    assert client.post(decide, {"status": "failed", "reason": ""}).status_code == 422
    assert client.post(decide, {"status": "failed", "reason": "seen"}).status_code == 302


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/runs/999999", 404),
        ("/audit/999999", 404),
        ("/audit/99999999999999999999", 404),
        ("/backups/999999", 404),
        ("/nothing/here", 404),
        ("/runs?environment=x&kind=y&status=z&page=nonsense", 200),
        ("/backups?environment=-1", 200),
        ("/audit?since=yesterday", 422),
        ("/audit?event=tape.rewound", 422),
        ("/audit?since=2026-02-01&until=2026-01-01", 422),
        ("/find?q=%00", 400),
        ("/runs/1/log?after=abc", 404),
    ],
)
def test_bad_addresses_and_parameters_get_a_clear_answer(as_role, path, status):
    answer = as_role("admin").get(path)
    assert answer.status_code == status
    assert "Traceback" not in answer.content.decode()


def test_audit_filters_by_who_what_and_environment(as_role, environment, operator):
    backups.request_backup(actor=operator, environment=environment, idempotency_key="b" * 32)
    client = as_role("reviewer")

    def found(query: str) -> bool:
        page = client.get(f"/audit?{query}").content.decode()
        return "operator requested run" in page.split("</form>")[-1]

    today = timezone.now().date()
    assert found(f"who=operator&what=run.&environment={environment.pk}&since={today}&until={today}")
    assert found("event=run.requested")
    assert found("what=operator+requested")
    assert not found("event=run.ended")
    assert not found("what=operator+ended")
    assert not found("who=nobody")
    assert not found("until=2020-01-01")


def test_audit_csv_starts_no_formula(as_role, environment, operator):
    backups.request_backup(
        actor=operator, environment=environment, idempotency_key="b" * 32, reason="=1+1"
    )
    text = b"".join(
        as_role("viewer").get("/audit.csv?what=run.requested").streaming_content
    ).decode()
    assert ",'=1+1" in text


def test_audit_event_shows_what_changed_and_from_where(as_role, environment):
    check = HealthCheck.objects.get()
    edit = reverse("health-check-edit", args=[environment.pk, check.pk])
    fields = {"name": "amounts", "kind": "sql", "address": "SELECT 1 AS one", "timeout_seconds": 9}
    assert as_role("admin").post(edit, fields).status_code == 302
    event = AuditEvent.objects.get(action="health_check.changed")

    assert event.changes() == [
        ("address", "SELECT count(amount) FROM targets", "SELECT 1 AS one"),
        ("is_enabled", "True", "False"),
        ("timeout_seconds", "5", "9"),
    ]
    client = as_role("viewer")
    page = client.get(reverse("audit-event", args=[event.pk])).content.decode()
    for text in ("SELECT count(amount) FROM targets", "SELECT 1 AS one", "127.0.0.1"):
        assert text in page
    assert reverse("audit-event", args=[event.pk]) in client.get("/audit").content.decode()
    exported = b"".join(client.get("/audit.csv").streaming_content).decode()
    assert '""address"": ""SELECT 1 AS one""' in exported


def test_audit_event_leaves_the_password_of_an_address_out(as_role, environment):
    check = HealthCheck.objects.get()
    edit = reverse("health-check-edit", args=[environment.pk, check.pk])
    address = "https://probe:se:cr@et@localhost/health?deep=1"
    fields = {"name": "h", "kind": "http", "address": address, "timeout_seconds": 9}
    client = as_role("admin")
    assert client.post(edit, fields).status_code == 302

    event = AuditEvent.objects.get(action="health_check.changed")

    assert event.details["after"]["address"] == "https://probe:…@localhost/health?deep=1"
    check.refresh_from_db()
    assert check.address == address
    assert client.post(edit, fields).status_code == 302
    again = AuditEvent.objects.filter(action="health_check.changed").first()
    assert again.details["before"]["address"] == "https://probe:…@localhost/health?deep=1"


@pytest.mark.django_db
def test_audit_event_of_another_environment_is_not_shown(make_environment, client, as_role):
    one, other = make_environment("staging"), make_environment("production", position=2)
    for environment in (one, other):
        answer = as_role("admin").post(url(environment, "health-check-now"))
        assert answer.status_code == 302
    user = User.objects.create_user("limited")
    Membership.objects.create(user=user, role=Role.VIEWER, environment=one)
    client.force_login(user)
    seen, hidden = (AuditEvent.objects.get(environment=e) for e in (one, other))
    assert client.get(reverse("audit-event", args=[seen.pk])).status_code == 200
    assert client.get(reverse("audit-event", args=[hidden.pk])).status_code == 404


def test_find_leads_to_runs_environments_and_migrations(as_role, seen, operator, folder):
    run = backups.request_backup(actor=operator, environment=seen, idempotency_key="b" * 32)
    client = as_role("viewer")
    assert client.get(f"/find?q={run.pk}").headers["location"] == f"/runs/{run.pk}"
    assert "20250101000000_init" in client.get("/find?q=init").content.decode()
    folder.add("0 b?c#d", "SELECT 1;")
    assert observe_target(seen.targets.get()).names("out_of_order") == ["0 b?c#d"]
    page = client.get("/find?q=B%3FC").content.decode()
    (address,) = re.findall(r'href="([^"]*/migrations/[^"]*)"', page)
    assert address == f"{seen.get_absolute_url()}/migrations/0%20b%3Fc%23d"
    assert client.get(address).status_code == 200
    assert "Shop staging" in client.get("/find?q=stag").content.decode()
    assert "Nothing is named" in client.get("/find?q=zzz").content.decode()
    assert client.get(url(seen, "migration", "20250101000000_init")).status_code == 200
    assert client.get(url(seen, "migration", "nothing")).status_code == 404


# -- settings


def test_admin_adds_application_environment_and_check(as_role, folder, database):
    client = as_role("admin")
    assert (
        client.post(reverse("application-add"), {"name": "A", "slug": "not ok"}).status_code == 422
    )
    assert (
        client.post(
            reverse("application-add"), {"name": "A", "slug": "a", "engine": "dbmate"}
        ).status_code
        == 302
    )
    application = Application.objects.get(slug="a")
    add = reverse("environment-add", args=[application.pk])
    fields = {
        "name": "Dev", "slug": "dev", "position": 1, "migrations_folder": str(folder.path),
        "auto_rollback": "no_writes", "settle_seconds": 5, "queue": "runs",
    }  # fmt: skip
    assert "Say where the database is" in client.post(add, fields).content.decode()
    wrong = client.post(add, fields | {"address": "http://secret-word@x"})
    assert (wrong.status_code, "secret-word" in wrong.content.decode()) == (422, False)
    answer = client.post(add, fields | {"address": database()})
    assert answer.status_code == 302, answer.content.decode()
    environment = Environment.objects.get(slug="dev")
    assert "postgresql" not in environment.targets.get().dsn_encrypted
    assert client.get(answer.headers["location"]).status_code == 200
    assert client.post(add, fields | {"address": "env:X"}).status_code == 422
    check = reverse("health-check-add", args=[environment.pk])
    bad = {"name": "h", "kind": "http", "address": "file:///etc/passwd", "timeout_seconds": 5}
    assert client.post(check, bad).status_code == 422
    for wrong in ("http://[::1", "http://localhost:99999/health"):
        answer = client.post(check, bad | {"address": wrong})
        assert (answer.status_code, "is not an address" in answer.content.decode()) == (422, True)
    good = bad | {"address": "http://localhost:1/health", "is_enabled": "on"}
    assert client.post(check, good).status_code == 302
    assert client.post(check, good).status_code == 422
    assert client.get(reverse("settings")).status_code == 200
    edit = reverse("environment-edit", args=[application.pk, environment.pk])
    assert client.post(edit, fields | {"name": "Development"}).status_code == 302
    changed = AuditEvent.objects.get(action="environment.changed")
    assert (changed.details["before"]["name"], changed.details["after"]["name"]) == (
        "Dev", "Development",
    )  # fmt: skip
    assert changed.details["address_changed"] is False


def test_connection_test_shows_what_the_worker_found(as_role, seen):
    client = as_role("admin")
    page = client.get(reverse("connection-test", args=[seen.pk])).content.decode()
    assert "It works." in page
    seen.targets.get().states.create(error="connection refused")
    page = client.get(
        reverse("connection-test", args=[seen.pk]), headers={"HX-Request": "true"}
    ).content.decode()
    assert "connection refused" in page


def test_two_environments_on_one_database_are_refused(seen, make_environment):
    other = make_environment("production", position=2)
    other.targets.update(dsn_encrypted=seen.targets.get().dsn_encrypted)
    state = observe_target(other.targets.get())
    assert "two environments on one database are refused" in state.error


def test_people_roles_and_the_last_admin(as_role):
    client = as_role("admin")
    weak = {"username": "p", "password1": "123", "password2": "123", "role": "viewer"}
    assert client.post(reverse("person-add"), weak).status_code == 422
    strong = weak | {"password1": "correct-horse-9", "password2": "correct-horse-9"}
    assert client.post(reverse("person-add"), strong).status_code == 302
    person = User.objects.get(username="p")
    role = {"user": person.pk, "role": "operator"}
    assert client.post(reverse("role-add"), role).status_code == 302
    assert client.post(reverse("role-add"), role).status_code == 422
    mine = Membership.objects.get(role="admin")
    remove = reverse("role-revoke", args=[mine.pk])
    answer = client.post(remove)
    assert (answer.status_code, "last admin" in answer.content.decode()) == (409, True)
    other = person.memberships.get(role="operator")
    assert client.post(reverse("role-revoke", args=[other.pk])).status_code == 302
    assert client.post(reverse("person-lock-out", args=[person.pk])).status_code == 302
    person.refresh_from_db()
    assert person.is_active is False
    assert client.post(reverse("person-lock-out", args=[mine.user.pk])).status_code == 409


def test_archiving_is_refused_while_a_run_holds_the_target(as_role, environment, operator):
    client = as_role("admin")
    run = Run.objects.create(
        operation="migrate", kind="migrate", changes_target=True,
        environment=environment, target=environment.targets.get(),
        requested_by=operator, idempotency_key="x",
    )  # fmt: skip
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


def test_preferences_set_theme_and_time_zone(as_role):
    client = as_role("viewer")
    assert client.post("/preferences", {"theme": "dark", "time_zone": "Mars"}).status_code == 422
    assert (
        client.post("/preferences", {"theme": "dark", "time_zone": "Asia/Tokyo"}).status_code == 302
    )
    assert 'data-theme="dark"' in client.get("/").content.decode()


def test_sign_in_and_failure_are_audited(client, operator):
    assert client.post("/sign-in", {"username": "operator", "password": "no"}).status_code == 200
    assert client.post("/sign-in", {"username": "operator", "password": "pw"}).status_code == 302
    assert client.post("/sign-out").status_code == 302
    actions = AuditEvent.objects.order_by("id").values_list("action", flat=True)
    assert list(actions) == ["person.sign_in_failed", "person.signed_in", "person.signed_out"]


def test_form_without_token_is_refused_with_a_page(operator):
    client = Client(enforce_csrf_checks=True)
    client.force_login(operator)
    answer = client.post("/preferences", {"theme": ""})
    assert (answer.status_code, "too old" in answer.content.decode()) == (403, True)


def test_pages_carry_a_policy_without_inline_code(as_role):
    answer = as_role("viewer").get("/")
    policy = answer.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "default-src 'self'" in policy
    assert " style=" not in answer.content.decode()


@pytest.mark.django_db
def test_console_health_is_503_without_a_worker(client):
    answer = client.get("/health")
    body = answer.json()
    assert (answer.status_code, body["status"], body["database"], body["broker"]) == (
        503, "unhealthy", "connected", "connected",
    )  # fmt: skip
    assert body["error"] == "no worker is alive"


def test_file_of_a_stranger_is_not_read(client, operator, monkeypatch):
    read = Mock(return_value=None)
    monkeypatch.setattr(MemoryFileUploadHandler, "receive_data_chunk", read)
    sent = {"username": "x", "password": "y", "file": SimpleUploadedFile("a", b"x" * 1000)}
    assert client.post(reverse("sign-in"), sent).status_code < 500
    assert read.call_count == 0
    client.force_login(operator)
    client.post(reverse("sign-in"), {"file": SimpleUploadedFile("a", b"x" * 1000)})
    assert read.call_count == 1


@pytest.fixture
def broker(monkeypatch):
    """What is sent to the broker; `broker.away = True` and it takes nothing."""
    from celery import current_app

    class Broker:
        away = False
        sent: list[tuple[str, int]]

        def send(self, name, args, **_options) -> None:
            if self.away:
                raise ConnectionError("nobody listens")
            self.sent.append((name, args[0]))

    made = Broker()
    made.sent = []
    monkeypatch.setattr(current_app, "send_task", made.send)
    return made


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


def test_health_asked_for_while_the_broker_is_away_is_503(as_role, environment, broker):
    broker.away = True
    answer = as_role("operator").post(url(environment, "health-check-now"))
    assert (answer.status_code, "the broker does not answer" in answer.content.decode()) == (
        503, True,
    )  # fmt: skip


def test_settings_page_names_the_database_that_was_read(as_role, seen):
    page = as_role("admin").get(reverse("settings")).content.decode()
    assert seen.targets.get().database_name in page
    assert "not read yet" not in page
