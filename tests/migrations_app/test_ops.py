"""`manage.py ops`: documents, exit statuses and refusals, with a worker in this process."""

from __future__ import annotations

import io
import json
import shutil
import uuid
from pathlib import Path

import pytest
from celery import current_app
from django.contrib.auth.hashers import make_password
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection
from django.test.utils import CaptureQueriesContext

from backups_app.models import Backup
from opsconsole.access.models import Membership, User
from opsconsole.environments.models import Application, Environment, Target
from opsconsole.events.models import AuditEvent
from opsconsole.health.models import HealthCheck
from opsconsole.health.tasks import sample_health
from opsconsole.project import demo
from opsconsole.runs import services as runs
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.models import Run
from opsconsole.targets import ddl_log
from opsconsole.work.tasks import do_work
from tests.conftest import superuser
from tests.worker import as_worker, observe_target

pytestmark = pytest.mark.usefixtures("transactional_db", "inline_worker")
STAGING = "shop/staging"


@pytest.fixture
def inline_worker(monkeypatch):
    """Executes what is sent at once, as a worker with nothing else to do would."""
    from migrations_app import tasks as migrations
    from opsconsole.runs import tasks as platform

    tasks = {
        task.name: task
        for task in (
            migrations.observe,
            migrations.check_target_drift,
            do_work,
            platform.execute_run,
            platform.resolve_lost,
            sample_health,
        )
    }

    def send(name, args, **_options):
        with as_worker():
            tasks[name].run(*args)

    monkeypatch.setattr(current_app, "send_task", send)


class Ops:
    status = 0
    said = ""

    def __call__(self, *arguments: str, as_json: bool = True):
        out, err = io.StringIO(), io.StringIO()
        extra = ["--json"] if as_json else []
        with pytest.raises(SystemExit) as end:
            call_command("ops", *arguments, *extra, stdout=out, stderr=err)
        self.status, self.said = int(end.value.code or 0), err.getvalue().strip()
        text = out.getvalue()
        return json.loads(text) if as_json and text.strip() else text


@pytest.fixture
def ops(admin) -> Ops:
    return Ops()


@pytest.fixture
def shop(environment, folder):
    folder.add("20250201000000_add", "ALTER TABLE users ADD COLUMN x int;\n")
    observe_target(environment.targets.get())
    return environment


def test_lists_are_json_arrays(ops, shop):
    assert [e["environment"] for e in ops("environments")] == [STAGING]
    assert [m["name"] for m in ops("pending", STAGING)] == ["20250201000000_add"]
    assert ops("runs") == []
    assert isinstance(ops("audit"), list)
    assert ops.status == 0
    assert "1 pending, 1 applied" in ops("environments", as_json=False)


def test_list_of_runs_takes_as_many_queries_for_three_as_for_one(ops, shop):
    def queries_for(number: int) -> int:
        for _run in range(number - Run.objects.count()):
            Run.objects.create(
                kind="backup",
                operation="backup",
                status=RunStatus.FAILED,
                environment=shop,
                target=shop.targets.get(),
                idempotency_key=uuid.uuid4().hex,
            )
        with CaptureQueriesContext(connection) as asked:
            assert len(ops("runs")) == number
        return len(asked)

    assert queries_for(1) == queries_for(3)


def test_migrate_wait_prints_one_document(ops, shop):
    document = ops("migrate", STAGING, "--wait", "--reason", "because")
    assert ops.status == 0
    assert {"id", "status", "steps", "applied", "backup", "health"} <= set(document)
    assert (document["status"], document["applied"]) == ("succeeded", ["20250201000000_add"])
    assert [s["name"] for s in document["steps"]][-1] == "health"
    assert set(document["steps"][0]) >= {"name", "status", "seconds"}
    run = str(document["id"])
    assert "content equal" in "\n".join(ops("run", run, "--log")["log"])
    assert "Migrate staging" in ops("run", run, as_json=False)
    assert "applied in" in ops("run", run, "--log", as_json=False)
    assert run in ops("runs", as_json=False)
    assert "run.ended" in ops("audit", as_json=False)


def test_run_that_failed_exits_with_1_and_can_be_resolved(ops, shop, folder):
    folder.add("20250202000000_bad", "ALTER TABLE nowhere ADD COLUMN x int;\n")
    assert "Failed" in ops("migrate", STAGING, "--wait", as_json=False).title()
    assert ops.status == 1
    ops(
        "resolve",
        STAGING,
        "20250202000000_bad",
        "--mark",
        "applied",
        "--reason",
        "by hand",
        "--wait",
    )
    assert ops.status == 0
    assert ops("pending", STAGING) == []


def test_drift_is_listed_object_by_object(ops, shop, target):
    assert ops("drift", STAGING) == {"changes": [], "log": []}
    assert ops("drift", STAGING, as_json=False) == "no drift\n"
    with superuser(target.info.dbname) as connection:
        connection.execute(ddl_log.install_sql(target.info.user))
    target.execute("ALTER TABLE users ADD COLUMN phone text")
    found = ops("drift", STAGING)
    assert found["changes"] == [
        {"sign": "+", "name": "column public.users.phone", "lines": ["text"]}
    ]
    (entry,) = found["log"]
    assert (entry["role"], entry["command"]) == (target.info.user, "ALTER TABLE")
    text = ops("drift", STAGING, as_json=False)
    assert f"  {target.info.user} (local) with " in text
    assert ops.status == 0


def test_import_takes_a_file_or_an_object_of_a_storage(ops, shop, settings, tmp_path):
    settings.BACKUPS_FOLDER = tmp_path
    ops("backup", STAGING, "--wait")
    archive = Path(settings.BACKUPS_FOLDER, Backup.objects.get().key)
    imported = ops("import", STAGING, str(archive), "--wait")
    assert (ops.status, imported["status"]) == (0, "succeeded")
    assert Backup.objects.get(pk=imported["backup"]).is_imported
    for wrong, why in (
        (["no/such/file"], "cannot read"),
        ([Backup.objects.last().key, "--storage", "Backups folder"], "restore it instead"),
        (["x", "--storage", "nowhere"], "there is no storage nowhere"),
    ):
        ops("import", STAGING, *wrong)
        assert (ops.status, why in ops.said) == (2, True)


def test_backup_restore_and_health(ops, shop):
    backup = ops("backup", STAGING, "--wait")["backup"]
    assert ops.status == 0
    ops("restore", str(backup), "--to", STAGING, "--wait")
    assert (ops.status, "Type the environment" in ops.said) == (2, True)
    assert ops("restore", str(backup), "--to", STAGING, "--confirm", "staging", "--wait")[
        "replaced"
    ]
    assert [r["healthy"] for r in ops("health", STAGING)] == [True]
    HealthCheck.objects.update(address="SELECT false")
    ops("health", STAGING)
    assert ops.status == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pending", "no/where"), "there is no environment no/where; there are: shop/staging"),
        (("run", "x"), "is not the number of a run"),
        (("run", "999"), "there is no run 999"),
        (("run", "²"), "is not the number of a run"),
        (("run", "9" * 18), "there is no run 9"),
        (("run", "9" * 5000), "is not the number of a run"),
        (("restore", "²", "--to", STAGING), "there is no backup ²"),
        (("runs", "--as", "gh\udcffst"), "is not UTF-8 text"),
        (("migrate", STAGING, "--reason", "\udcff"), "'\\udcff' is not UTF-8 text"),
        (("backup", STAGING, "--reason", "x" * 501), "at most 500 characters. (--reason TEXT)"),
        (("restore", "999", "--to", STAGING), "there is no backup 999"),
        (("environments", "--as", "ghost"), "there is no user ghost"),
        (("demo", "traffic", "nowhere"), "the demo has no environment nowhere"),
    ],
)
def test_wrong_arguments_exit_with_2_and_the_reason(ops, shop, arguments, words):
    ops(*arguments)
    assert (ops.status, words in ops.said) == (2, True), ops.said


@pytest.mark.parametrize("limit", ["-1", "0", "x", "1.5", "10001", "9" * 20])
def test_limit_that_is_no_row_count_is_refused(ops, limit):
    for verb in ("runs", "audit"):
        with pytest.raises(CommandError, match=f"{limit} is not a number from 1 to 10000"):
            call_command("ops", verb, "--limit", limit)


def test_audit_shows_a_member_of_one_environment_only_that_one(ops, shop, make_environment):
    other = make_environment("production", position=2)
    for environment in (shop, other):
        ops("health", environment.path)
    user = User.objects.create_user("limited")
    Membership.objects.create(user=user, role="viewer", environment=shop)

    (event,) = ops("audit", "--as", "limited")

    assert (event["environment"], event["what"], event["run"], event["details"]) == (
        STAGING,
        "health.check_requested",
        None,
        {},
    )


def test_nobody_named_is_the_first_admin_of_everything_who_may_sign_in(ops, shop, admin, person):
    person("admin", "later")
    User.objects.filter(pk=admin.pk).update(is_active=False)
    ops("health", STAGING)
    event = AuditEvent.objects.get(action="health.check_requested")
    assert event.actor_label == "later"


def test_health_without_a_check_is_refused(ops, shop):
    HealthCheck.objects.update(is_enabled=False)
    ops("health", STAGING)
    assert (ops.status, "has no health check" in ops.said) == (2, True)


def test_silence_of_the_workers_is_said(ops, shop, monkeypatch):
    monkeypatch.setattr(current_app, "send_task", lambda *_args, **_options: None)
    monkeypatch.setattr("opsconsole.cli.ANSWER_SECONDS", 0.3)
    for verb in ("pending", "migrate", "drift"):
        ops(verb, STAGING)
        assert (ops.status, "(waited 300 ms)" in ops.said) == (2, True), verb


def test_ctrl_c_while_waiting_leaves_the_run_to_go_on(ops, shop, monkeypatch):
    monkeypatch.setattr(current_app, "send_task", lambda *_args, **_options: None)

    def interrupt(_seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("opsconsole.runs.cli.time.sleep", interrupt)
    ops("backup", STAGING, "--wait")
    assert (ops.status, "what was started goes on" in ops.said) == (130, True)
    assert Run.objects.get().status == RunStatus.QUEUED


def test_named_user_s_rights_count(ops, shop, person):
    person("viewer")
    ops("migrate", STAGING, "--as", "viewer")
    assert (ops.status, "You need the role" in ops.said) == (2, True)


def test_nothing_pending_is_refused(ops, environment):
    ops("migrate", STAGING)
    assert (ops.status, "up to date" in ops.said) == (2, True)


def test_protected_environment_needs_confirm_and_checked(ops, shop):
    Environment.objects.update(is_protected=True)
    ops("migrate", STAGING, "--checked")
    assert (ops.status, ops.said) == (
        2,
        "Type the environment's name, staging, to confirm. (--confirm NAME)",
    )
    ops("migrate", STAGING, "--confirm", "staging")
    assert ops.status == 2
    assert ops.said.startswith("Not confirmed yet")
    assert ops.said.endswith("(--checked, once all of it is done)")
    assert (
        ops("migrate", STAGING, "--confirm", "staging", "--checked", "--wait")["status"]
        == "succeeded"
    )


def test_database_that_cannot_be_read_is_refused_with_its_reason(ops, shop):
    Target.objects.update(dsn_encrypted="", dsn_reference="env:NOT_SET_ANYWHERE_URL")
    ops("pending", STAGING)
    assert (ops.status, ops.said) == (2, "env:NOT_SET_ANYWHERE_URL is empty on this worker")
    ops("migrate", STAGING)
    assert ops.status == 2
    assert "is empty on this worker" in ops("environments", as_json=False)


def test_cancel_decide_and_way_back(ops, shop, admin, monkeypatch):
    monkeypatch.setattr(runs, "dispatch", lambda _run_id: None)
    queued = ops("migrate", STAGING)
    assert ops("cancel", str(queued["id"]))["status"] == "cancelled"
    run = ops("migrate", STAGING)
    Run.objects.filter(pk=run["id"]).update(status=RunStatus.NEEDS_ATTENTION)
    ops("way-back", str(run["id"]), "--reason", "x")
    assert (ops.status, "offers no way back" in ops.said) == (2, True)
    assert ops("decide", str(run["id"]), "failed", "--reason", "seen")["status"] == "failed"
    assert "is queued" in ops("backup", STAGING, as_json=False)


# -- the demo, really made


@pytest.fixture
def demo_made(admin):
    demo.reset("staging")
    return Environment.objects.get(slug="staging", application__slug="sales-commission")


def test_demo_reset_makes_staging_two_behind_and_breaks_are_added_and_mended(ops, demo_made):
    assert [m["name"] for m in ops("pending", "sales-commission/staging")] == [
        "20250728101500_add_parent_target_relationship",
        "20250728104200_index_targets_parent",
    ]
    for arguments in (("break-sql",), ("break-sql", "--non-atomic"), ("break-health",)):
        added = ops("demo", *arguments)["added"]
        assert ops("demo", "mend") == [added]
    assert ops("demo", "mend") == []
    assert ops("demo", "reset", "staging") == {"reset": True}
    ops("demo", "reset", "nowhere")
    assert ops.status == 2
    lines = ops("demo", "services", as_json=False).splitlines()
    assert [line.split("\t")[0] for line in lines] == ["development", "staging", "production"]
    rows = ops("demo", "traffic", "staging", "--seconds", "0.5", "--clients", "2")
    assert [row["client"] for row in rows] == [1, 2]
    assert all(row["writes"] > 0 for row in rows)
    assert Application.objects.get().environments.count() == 3


@pytest.fixture
def cluster():
    with superuser() as connection:
        yield connection
        for name in ("copy_of_demo", "sales_commission_development"):
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def test_demo_reset_leaves_what_the_demo_did_not_make(ops, demo_made, operator, cluster):
    ops("demo", "reset", "--as", "operator")
    assert (ops.status, "You need the role admin" in ops.said) == (2, True)
    # What another made under the demo's names.
    cluster.execute("DROP DATABASE IF EXISTS sales_commission_development")
    cluster.execute("CREATE DATABASE sales_commission_development")
    HealthCheck.objects.filter(environment=demo_made, name="GET /health").update(
        address="https://shop.example.com/health"
    )
    ops("demo", "reset")
    assert (ops.status, "is not the demo's" in ops.said) == (2, True)
    assert [name for name, _argument in demo.services()] == ["development", "production"]
    assert not AuditEvent.objects.filter(action="demo.reset").exists()
    # What was made of it since.
    cluster.execute("CREATE DATABASE copy_of_demo OWNER sales_commission_staging")
    own = demo.migrations_folder() / "20990101000000_mine"
    own.mkdir()
    (own / "migration.sql").write_text("SELECT 1;")
    ops("demo", "reset", "staging")
    kept = "SELECT count(*) FROM pg_database WHERE datname = 'copy_of_demo'"
    assert cluster.execute(kept).fetchone() == (1,)
    [aside] = demo.folder().parent.glob("set-aside/*/20990101000000_mine/migration.sql")
    assert (own.exists(), aside.read_text()) == (False, "SELECT 1;")
    told = AuditEvent.objects.get(action="demo.reset").told
    assert told == "admin put the demo application Sales Commission back: staging."
    shutil.rmtree(demo.folder().parent / "set-aside")


def test_application_of_the_demos_name_that_a_person_made_is_not_touched(ops):
    Application.objects.create(slug="sales-commission", name="Ours")
    ops("demo", "reset")
    assert (ops.status, "is not the demo's" in ops.said) == (2, True)
    assert demo.services() == []
    assert not Environment.objects.exists()


def test_demo_reset_is_refused_while_a_run_is_active(ops, demo_made, admin, monkeypatch):
    monkeypatch.setattr(runs, "dispatch", lambda _run_id: None)
    ops("backup", "sales-commission/staging")
    ops("demo", "reset")
    assert (ops.status, "wait for it or cancel it" in ops.said) == (2, True)


def test_prepare_makes_people_once_and_says_how_to_sign_in(settings, monkeypatch):
    made: list[int] = []
    monkeypatch.setattr(demo, "reset", lambda: made.append(1))
    out = io.StringIO()
    settings.DEMO = True
    call_command("prepare", stdout=out, stderr=io.StringIO())
    assert "sign in as admin, operator, reviewer or viewer, password" in out.getvalue()
    assert (User.objects.count(), made) == (4, [1])


def test_shared_password_ends_once_others_reach_the_console(settings, monkeypatch):
    monkeypatch.setattr(demo, "reset", lambda: None)
    settings.DEMO = True

    def prepare() -> str:
        out = io.StringIO()
        call_command("prepare", stdout=out, stderr=io.StringIO())
        return out.getvalue().strip()

    assert prepare().startswith("sign in as admin, operator, reviewer or viewer, password")
    User.objects.filter(username="viewer").update(password=make_password("own"))
    settings.IS_HERE_ONLY = False
    said = "sign in; `manage.py ops password-link admin` makes a link to set a password"
    assert prepare() == said
    able = {user.username for user in User.objects.all() if user.has_usable_password()}
    assert able == {"viewer"}
    User.objects.all().delete()
    assert prepare() == said
    assert not any(user.has_usable_password() for user in User.objects.all())
    settings.IS_HERE_ONLY = True
    assert prepare() == "sign in"


def test_prepare_without_the_demo_makes_one_admin_and_shows_its_password_once(settings):
    settings.DEMO = False
    said = []
    for _start in range(2):
        out = io.StringIO()
        call_command("prepare", stdout=out, stderr=io.StringIO())
        said.append(out.getvalue().strip())
    assert said[0].startswith("sign in as admin, password ")
    assert said[1] == "sign in"
    assert Membership.objects.get().role == "admin"


def test_backup_page_actions_reach_their_runs(client, shop, operator, admin):
    from django.urls import reverse

    from backups_app.models import ReplacedDatabase

    client.force_login(operator)
    client.post(reverse("back-up", args=["shop", "staging"]), {"key": "a" * 32})
    backup = Backup.objects.get()
    client.post(
        reverse("backup-restore", args=[backup.pk]),
        {
            "environment": shop.pk,
            "reason": "r",
            "typed_name": "staging",
            "key": "b" * 32,
            "how": "replace",
        },
    )
    replaced = ReplacedDatabase.objects.get()
    drop = reverse("replaced-drop", args=[replaced.pk])
    assert client.get(drop).status_code == 403
    client.force_login(admin)
    assert client.get(drop).status_code == 200
    assert client.post(drop, {"typed_name": "wrong"}).status_code == 422
    assert client.post(drop, {"typed_name": replaced.replaced_name}).status_code == 302
    replaced.refresh_from_db()
    assert replaced.dropped_at is not None
    assert client.get(f"/backups?environment={replaced.target.environment_id}").status_code == 200
    assert client.post(reverse("read-now", args=["shop", "staging"])).status_code == 302
    assert client.post(reverse("health-check-now", args=["shop", "staging"])).status_code == 302
    assert client.get(reverse("environment-health", args=["shop", "staging"])).status_code == 200
    wrong = reverse("migration-resolve", args=["shop", "staging", "x"])
    assert client.post(wrong, {"mark": "nonsense"}).status_code == 422
    assert client.post(wrong, {"mark": "applied"}).status_code == 422
    assert client.post(wrong, {"mark": "applied", "reason": "r"}).status_code == 302
    run = Run.objects.get(kind="migrate")
    assert (run.status, "not in the migrations folder" in run.summary) == ("failed", True)
    way = reverse("run-way-back", args=[run.pk])
    assert client.post(way, {"reason": "r"}).status_code == 409
