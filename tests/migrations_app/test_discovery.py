"""Migrations are found in what somebody is about to add, and the application is made of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from django.urls import reverse

from migrations_app.models import Repository
from migrations_app.services.applications import allow_folder
from migrations_app.sources.discovery import FoundFolder, discover, project_name
from migrations_app.sources.roots import FILE
from opsconsole.environments.models import Application, Draft
from opsconsole.exceptions import AdapterError
from opsconsole.work.models import WorkItem
from tests.migrations_app.test_git import Work
from tests.worker import as_worker, do_work, unseal

INIT = "CREATE TABLE a (id int);\n"
DBMATE = "-- migrate:up\nCREATE TABLE a (id int);\n-- migrate:down\n"


@pytest.fixture
def work(tmp_path, settings) -> Work:
    settings.MIGRATIONS_ROOTS = [tmp_path]
    settings.REPOSITORIES_FOLDER = tmp_path / "cache"
    made = Work(tmp_path)
    made.commit(
        {
            "packages/db/prisma/migrations/1_init/migration.sql": INIT,
            "packages/db/prisma/migrations/2_more/migration.sql": INIT,
            "old/db/migrations/1_init.sql": DBMATE,
            # Of another tool, and somebody else's.
            "flyway/migrations/001_init.sql": INIT,
            "node_modules/x/prisma/migrations/1_init/migration.sql": INIT,
        },
        "Begin",
    )
    return made


FOUND = [
    FoundFolder("prisma", "packages/db/prisma/migrations", 2),
    FoundFolder("dbmate", "old/db/migrations", 1),
]


@as_worker()
def found_in(source: str, ref: str = "") -> list[FoundFolder]:
    return discover(source, ref=ref).folders


@pytest.mark.django_db
def test_folders_are_found_in_the_repositorys_own_branch(work):
    work.git("branch", "trunk")
    work.git("push", "--quiet", "origin", "trunk")
    work.git("symbolic-ref", "HEAD", "refs/heads/trunk", cwd=work.bare)
    with as_worker():
        found = discover(work.url)
    assert (found.folders, found.ref, len(found.commit)) == (FOUND, "trunk", 40)


@pytest.mark.django_db
def test_folders_are_found_below_a_folder_and_in_itself(work, tmp_path):
    tree = Path(work.tree)
    assert found_in(str(tree)) == [
        FoundFolder(each.engine, str(tree / each.folder), each.migrations) for each in FOUND
    ]
    inside = tree / "packages/db/prisma/migrations"
    assert found_in(str(inside)) == [FoundFolder("prisma", str(inside), 2)]
    (tmp_path / os.fsdecode(b"bad-\xff")).mkdir()
    (tmp_path / os.fsdecode(b"bad-\xff") / "1_x").mkdir()
    (tmp_path / os.fsdecode(b"bad-\xff") / "1_x" / "migration.sql").write_text(INIT)
    assert all("bad-" not in each.folder for each in found_in(str(tmp_path)))


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("/etc", "outside the allowed folders"),
        ("{root}/nothing", "is no folder on the workers"),
        ("file://{root}/nothing", "does not appear to be a git repository"),
    ],
)
def test_what_cannot_be_looked_into_is_said(work, tmp_path, source, said):
    with pytest.raises(AdapterError, match=said):
        found_in(source.format(root=tmp_path))


@pytest.mark.django_db
def test_folder_with_a_link_hides_no_other(work):
    link = work.tree / "old/db/migrations/2_link.sql"
    link.symlink_to("1_init.sql")
    work.commit_tree("Link")
    assert found_in(work.url) == FOUND[:1]
    work.git("rm", "-r", "--quiet", "packages")
    work.commit_tree("Only the link")
    with pytest.raises(AdapterError, match=r"2_link\.sql is a symbolic link"):
        found_in(work.url)


@pytest.mark.django_db
def test_repository_without_a_commit_is_said(work, tmp_path):
    work.git("init", "--quiet", "--bare", tmp_path / "empty.git", cwd=tmp_path)
    with pytest.raises(AdapterError, match="no branch of its own: is it empty"):
        found_in(f"file://{tmp_path / 'empty.git'}")


@pytest.mark.django_db
def test_branch_that_is_not_there_is_said(work):
    with pytest.raises(AdapterError, match="there is no branch, tag or commit nowhere"):
        found_in(work.url, ref="nowhere")


@pytest.mark.django_db
def test_folder_is_allowed_without_a_restart_and_takes_none_away(
    work, tmp_path_factory, settings, admin
):
    other = tmp_path_factory.mktemp("checkouts")
    (other / "db/migrations").mkdir(parents=True)
    (other / "db/migrations/1_init.sql").write_text(DBMATE)
    kept = Path(settings.OPSCONSOLE_HOME.path) / FILE
    try:
        with pytest.raises(AdapterError, match=f"ops allow-folder {other}"):
            found_in(str(other))
        for _twice in range(2):
            assert allow_folder(actor=admin, folder=str(other)) == other
        assert kept.read_text() == f"{other}\n"
        assert found_in(str(other)) == [FoundFolder("dbmate", str(other / "db/migrations"), 1)]
        assert found_in(str(work.tree))[0].migrations == 2
    finally:
        kept.unlink(missing_ok=True)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("folder", "said"),
    [("checkouts", "no absolute path"), ("/nowhere", "no folder here"), ("/", "whole machine")],
)
def test_folder_that_cannot_be_meant_is_not_allowed(admin, folder, said):
    with pytest.raises(AdapterError, match=said):
        allow_folder(actor=admin, folder=folder)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("https://host/team/sales-commission.git", "Sales commission"),
        ("git@host:team/shop_api.git", "Shop api"),
        ("/srv/apps/shop/prisma/migrations", "Shop"),
        ("/", ""),
    ],
)
def test_name_is_made_of_the_address(source, expected):
    assert project_name(source) == expected


@pytest.mark.django_db(transaction=True)
class TestAdding:
    def look(self, client, source: str, **more: str) -> Draft:
        answer = client.post(reverse("application-add"), {"source": source, **more})
        assert answer.status_code == 302, answer.content.decode()
        do_work(WorkItem.objects.order_by("pk").last().pk)
        return Draft.objects.get()

    def test_application_is_made_of_what_was_found(self, as_role, work):
        client = as_role("admin")
        draft = self.look(client, work.url, secret="tok-5521")
        page = client.get(draft.get_absolute_url()).content.decode()
        for said in ("packages/db/prisma/migrations: Prisma, 2 migrations", 'value="Shop"'):
            assert said in page, said
        assert "tok-5521" not in page
        answer = client.post(
            reverse("source-save", args=[draft.pk]), {"folder": "0", "name": "Shop"}
        )
        added = Application.objects.get(slug="shop")
        assert answer.headers["location"] == reverse("environment-add", args=[added.pk])
        repository = Repository.objects.get(application=added)
        assert (repository.url, repository.ref, repository.folder, added.engine) == (
            work.url, "main", "packages/db/prisma/migrations", "prisma",
        )  # fmt: skip
        with as_worker():
            assert unseal(repository.secret_encrypted) == "tok-5521"
        assert not Draft.objects.exists()
        assert "Shop has no environment yet" in client.get("/").content.decode()

    def test_folder_is_the_applications_own(self, as_role, work):
        client = as_role("admin")
        draft = self.look(client, str(work.tree))
        client.post(reverse("source-save", args=[draft.pk]), {"folder": "1", "name": "Shop"})
        added = Application.objects.get(slug="shop")
        assert (added.engine, added.migrations_folder) == (
            "dbmate",
            str(work.tree / "old/db/migrations"),
        )

    def test_secret_is_not_kept_for_another_address(self, as_role, work):
        client = as_role("admin")
        draft = self.look(client, work.url, secret="tok-5521")
        client.post(draft.get_absolute_url(), {"source": work.url})
        assert "secret" in Draft.objects.get().sealed
        client.post(draft.get_absolute_url(), {"source": "https://elsewhere.test/x.git"})
        assert Draft.objects.get().sealed == {}

    def test_repository_without_migrations_offers_the_usual_folders_and_prefers_none(
        self, as_role, tmp_path, settings
    ):
        settings.MIGRATIONS_ROOTS = [tmp_path]
        settings.REPOSITORIES_FOLDER = tmp_path / "cache"
        made = Work(tmp_path)
        made.commit({"README.md": "x"})
        client = as_role("admin")
        draft = self.look(client, made.url)
        page = client.get(draft.get_absolute_url()).content.decode()
        assert "No migrations were found" in page
        save = reverse("source-save", args=[draft.pk])
        answer = client.post(save, {"name": "Shop"})
        assert (answer.status_code, Application.objects.count()) == (422, 0)
        assert client.post(save, {"name": "Shop", "folder": "0"}).status_code == 302
        assert Repository.objects.get().folder == "prisma/migrations"

    def test_short_name_of_an_archived_application_is_refused_with_what_to_do(
        self, as_role, work, environment
    ):
        client = as_role("admin")
        draft = self.look(client, work.url)
        answer = client.post(
            reverse("source-save", args=[draft.pk]), {"folder": "0", "name": "Shop"}
        )
        assert answer.status_code == 422
        assert "with the short name shop: give another" in answer.content.decode()
