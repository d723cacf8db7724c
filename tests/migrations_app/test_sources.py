"""Migrations from git in the console: what was reviewed at a commit is what is applied."""

from __future__ import annotations

import uuid

import pytest

from migrations_app.models import Repository
from migrations_app.services.migrations import current_plan, request_migrate
from opsconsole.environments.models import Environment
from opsconsole.environments.secrets import seal
from opsconsole.events.models import AuditEvent
from opsconsole.exceptions import Refused
from opsconsole.runs.choices import RunStatus
from tests.conftest import SCHEMA, log_of
from tests.migrations_app.test_git import FOLDER, Work
from tests.worker import execute_run, observe_target, unseal

NAME = "20260101000000_email"
TEXT = "ALTER TABLE users ADD COLUMN email text;\n"
URL = "/settings/applications/{}/repository"


@pytest.fixture
def work(environment, folder) -> Work:
    """The application's repository, with what is applied in the environment already."""
    place = folder.path.parents[1] / "git"
    place.mkdir()
    made = Work(place)
    made.commit({f"{FOLDER}/20250101000000_init/migration.sql": SCHEMA}, "Begin")
    Repository.objects.create(
        application=environment.application, url=made.url, folder=FOLDER, ref="main"
    )
    return made


def read(environment):
    fresh = Environment.objects.select_related("application").get(pk=environment.pk)
    return fresh, observe_target(fresh.targets.get())


def ask(environment, actor, plan_hash: str):
    return request_migrate(
        actor=actor,
        target=environment.targets.get(),
        plan_hash=plan_hash,
        idempotency_key=uuid.uuid4().hex,
    )


def finish(run):
    execute_run(run.pk, "test-worker")
    run.refresh_from_db()
    return run


def test_state_says_which_commit_it_is_of(environment, work, as_role):
    commit = work.commit({f"{FOLDER}/{NAME}/migration.sql": TEXT}, "Add <email>")
    _fresh, state = read(environment)
    assert state.error == ""
    assert (state.pending, state.data["revision"]["commit"]) == ([NAME], commit)
    client = as_role("operator")
    for url in (
        "/applications/shop/staging",
        f"/applications/shop/staging/migrations/{NAME}",
        "/applications/shop/staging/migrate",
    ):
        page = client.get(url).content.decode()
        assert (commit[:12] in page, "Add &lt;email&gt;" in page) == (True, True), url
    assert commit[:8] in client.get("/applications/shop").content.decode()


@pytest.mark.django_db(transaction=True)
class TestRun:
    def test_confirmed_commit_is_run_though_the_branch_moved_on(self, environment, work, operator):
        confirmed = work.commit({f"{FOLDER}/{NAME}/migration.sql": TEXT})
        fresh, _state = read(environment)
        plan, _ = current_plan(fresh.targets.get())
        run = ask(fresh, operator, plan.hash)
        work.commit({f"{FOLDER}/{NAME}/migration.sql": "DROP TABLE users;\n"})
        finish(run)
        assert run.status == RunStatus.SUCCEEDED, run.summary
        assert f"migrations of commit {confirmed}" in log_of(run)
        assert run.parameters["commit"] == confirmed
        event = AuditEvent.objects.get(action="run.requested")
        assert event.details["commit"] == confirmed

    def test_commit_that_changes_no_migration_does_not_refuse_the_confirmed_plan(
        self, environment, work, operator
    ):
        confirmed = work.commit({f"{FOLDER}/{NAME}/migration.sql": TEXT})
        fresh, _state = read(environment)
        plan, _ = current_plan(fresh.targets.get())
        work.commit({"README.md": "more"})
        fresh, state = read(environment)
        assert state.data["revision"]["commit"] != confirmed
        run = finish(ask(fresh, operator, plan.hash))
        assert (run.status, run.parameters["commit"]) == (RunStatus.SUCCEEDED, confirmed)

    def test_commit_that_changes_a_confirmed_migration_is_refused_with_what_changed(
        self, environment, work, operator
    ):
        work.commit({f"{FOLDER}/{NAME}/migration.sql": TEXT})
        fresh, _state = read(environment)
        plan, _ = current_plan(fresh.targets.get())
        work.commit({f"{FOLDER}/{NAME}/migration.sql": TEXT + "-- more\n"})
        fresh, _state = read(environment)
        with pytest.raises(Refused, match=f"{NAME} was changed"):
            ask(fresh, operator, plan.hash)


def test_environment_follows_its_own_branch(environment, work):
    work.git("checkout", "--quiet", "-b", "release/1")
    commit = work.commit({f"{FOLDER}/{NAME}/migration.sql": TEXT})
    assert read(environment)[1].pending == []
    Repository.objects.update(refs={str(environment.pk): "release/1"})
    _fresh, state = read(environment)
    assert (state.pending, state.data["revision"]["commit"]) == ([NAME], commit)
    assert state.data["revision"]["ref"] == "release/1"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"ref": "gone"}, "there is no branch, tag or commit gone in it"),
        ({"folder": "db"}, "there is no folder db in main at"),
        ({"url": "file:///etc"}, "/etc is outside the allowed folders"),
    ],
)
def test_what_is_wrong_with_it_is_on_the_environment_page(
    environment, work, as_role, fields, problem
):
    Repository.objects.update(**fields)
    _fresh, state = read(environment)
    assert problem in state.error
    assert problem in as_role("viewer").get("/applications/shop/staging").content.decode()


def test_environment_without_folder_and_repository_says_what_to_set(environment):
    Environment.objects.update(migrations_folder="")
    assert "no migrations folder is set" in read(environment)[1].error


class TestSettings:
    def post(self, client, environment, **changes):
        data = {"url": "https://git.example/shop.git", "ref": "main", "folder": FOLDER}
        return client.post(URL.format(environment.application_id), data | changes)

    def test_admin_sets_it_with_a_sealed_secret(self, environment, as_role):
        client = as_role("admin")
        answer = self.post(client, environment, secret="tok-marker")
        assert answer.status_code == 302
        saved = Repository.objects.get()
        assert unseal(saved.secret_encrypted) == "tok-marker"
        event = AuditEvent.objects.get(action="repository.added")
        assert (event.details["secret_changed"], "tok-marker" in str(event.details)) == (
            True,
            False,
        )
        assert "https://git.example/shop.git" in client.get("/settings").content.decode()
        assert (
            "tok-marker" not in client.get(URL.format(environment.application_id)).content.decode()
        )

    def test_secret_is_kept_replaced_or_dropped(self, environment, as_role):
        client = as_role("admin")
        self.post(client, environment, secret="one")
        self.post(client, environment, ref="next")
        assert unseal(Repository.objects.get().secret_encrypted) == "one"
        self.post(client, environment, secret="two")
        assert unseal(Repository.objects.get().secret_encrypted) == "two"
        self.post(client, environment, drops_secret="on")
        assert Repository.objects.get().secret_encrypted == ""

    def test_secret_is_not_sent_to_another_host(self, environment, as_role):
        client = as_role("admin")
        self.post(client, environment, secret="one")
        other = "https://elsewhere.example/shop.git"
        answer = self.post(client, environment, url=other)
        assert (answer.status_code, "leads to another host" in answer.content.decode()) == (
            422,
            True,
        )
        assert self.post(client, environment, url=other, drops_secret="on").status_code == 302
        assert Repository.objects.get().secret_encrypted == ""

    def test_each_environment_can_follow_another_ref(self, environment, as_role):
        self.post(as_role("admin"), environment, **{f"ref_{environment.pk}": "release/1"})
        assert Repository.objects.get().ref_for(environment) == "release/1"

    @pytest.mark.parametrize(
        ("field", "value", "problem"),
        [
            ("url", "ext::sh -c id", "give an https://"),
            ("url", "https://u:p@host/x", "leave the password out"),
            ("ref", "--all", "is not the name of a branch"),
            ("folder", "../x", "Give a folder inside the repository."),
        ],
    )
    def test_refused_form_keeps_what_was_typed_but_the_secret(
        self, environment, as_role, field, value, problem
    ):
        answer = self.post(as_role("admin"), environment, secret="tok-marker", **{field: value})
        page = answer.content.decode()
        assert (answer.status_code, problem in page) == (422, True)
        assert "tok-marker" not in page
        assert not Repository.objects.exists()

    def test_wrong_ref_of_an_environment_is_refused(self, environment, as_role):
        answer = self.post(as_role("admin"), environment, **{f"ref_{environment.pk}": "a..b"})
        assert (answer.status_code, Repository.objects.count()) == (422, 0)

    def test_removed_repository_leaves_the_folders(self, environment, work, as_role):
        Repository.objects.update(secret_encrypted=seal("x"))
        client = as_role("admin")
        assert client.post(URL.format(environment.application_id) + "/remove").status_code == 302
        assert not Repository.objects.exists()
        assert read(environment)[1].data["revision"] is None

    def test_operator_may_not(self, environment, work, as_role):
        client = as_role("operator")
        assert self.post(client, environment).status_code == 403
        assert client.post(URL.format(environment.application_id) + "/remove").status_code == 403
        assert Repository.objects.get().url == work.url
