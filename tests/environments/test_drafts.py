"""What is about to be added: tried on a worker, then saved; what is wrong is said before."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from backups_app.models import BackupPolicy
from opsconsole.environments import drafts
from opsconsole.environments.drafts import forget_old_drafts
from opsconsole.environments.forms import says_production
from opsconsole.environments.models import Draft, Environment
from opsconsole.events.models import AuditEvent
from opsconsole.work.models import WorkItem
from tests.worker import as_worker, do_work, observe_target, unseal

FIELDS = {
    "name": "Next",
    "position": 2,
    "settle_seconds": 5,
    "queue": "runs",
    "auto_rollback": "never",
}


@pytest.fixture
def admin_client(as_role) -> Client:
    return as_role("admin")


@pytest.fixture
def add(environment, folder) -> str:
    environment.application.migrations_folder = str(folder.path)
    environment.application.save()
    return reverse("environment-add", args=[environment.application_id])


def tried(client: Client, address: str, fields: dict) -> Draft:
    """The draft of what is sent to the address, after a worker tried it."""
    answer = client.post(address, fields)
    assert answer.status_code == 302, answer.content.decode()
    draft = Draft.objects.get()
    assert answer.headers["location"] == draft.get_absolute_url()
    assert "Waiting for a worker" in client.get(draft.get_absolute_url()).content.decode()
    do_work(WorkItem.objects.order_by("pk").last().pk)
    draft.refresh_from_db()
    return draft


@pytest.mark.django_db(transaction=True)
class TestAdding:
    def test_environment_is_tried_before_it_is_saved_with_defaults(
        self, admin_client, add, database
    ):
        address = database()
        draft = tried(admin_client, add, FIELDS | {"name": "Live", "address": address})
        assert (draft.error, "address" in draft.given) == ("", False)
        assert draft.given["is_protected"] is True
        page = admin_client.get(draft.get_absolute_url()).content.decode()
        for said in ("It works.", "1 migration, 1 pending", "Add the environment"):
            assert said in page, said
        assert "target-password" not in page
        assert not Environment.objects.filter(slug="live").exists()

        answer = admin_client.post(reverse("draft-save", args=[draft.pk]))
        added = Environment.objects.get(slug="live")
        assert answer.headers["location"] == added.get_absolute_url()
        assert (added.is_protected, added.position) == (True, 2)
        state = added.targets.get().latest_state
        assert (state.observed_at, state.pending) == (draft.tried_at, ["20250101000000_init"])
        policy = BackupPolicy.objects.get(environment=added)
        assert (policy.backup_cron, policy.keep_days) == ("30 2 * * *", 30)
        assert not Draft.objects.exists()
        assert "postgresql" not in added.targets.get().dsn_encrypted
        with as_worker():
            assert unseal(added.targets.get().dsn_encrypted) == address
        page = admin_client.get(added.get_absolute_url()).content.decode()
        for said in ("First steps", "Add a health check", "Back up now", "1 migration is pending"):
            assert said in page, said
        assert list(
            AuditEvent.objects.filter(action__in=["draft.tried", "environment.added"])
            .order_by("pk")
            .values_list("action", flat=True)
        ) == ["draft.tried", "environment.added"]

    def test_wrong_password_is_said_and_the_next_try_keeps_the_rest(
        self, admin_client, add, database
    ):
        address = database()
        wrong = address.replace("target-password", "wrong-password")
        draft = tried(admin_client, add, FIELDS | {"address": wrong, "queue": "slow"})
        assert "password authentication failed" in draft.error
        page = admin_client.get(draft.get_absolute_url()).content.decode()
        for said in ("Add it all the same", 'value="slow"', "Empty keeps it"):
            assert said in page, said
        again = admin_client.post(draft.get_absolute_url(), FIELDS | {"address": address})
        assert again.status_code == 302
        # What was tried before is no answer to what is typed now.
        assert admin_client.post(reverse("draft-save", args=[draft.pk])).status_code == 409
        do_work(WorkItem.objects.order_by("pk").last().pk)
        draft.refresh_from_db()
        assert draft.error == ""

    def test_address_is_not_typed_twice_because_another_field_is_wrong(
        self, admin_client, add, database, environment
    ):
        address, taken = database(), environment.name
        answer = admin_client.post(add, FIELDS | {"name": taken, "address": address})
        page = answer.content.decode()
        assert answer.status_code == 422
        for said in ("already has such an environment", "Empty keeps it", "Not tested yet."):
            assert said in page, said
        assert (address in page, WorkItem.objects.exists()) == (False, False)
        draft = Draft.objects.get()
        # Wrong a second time: what is wrong is not kept, all else is.
        wrong = FIELDS | {"name": "n" * 500, "queue": "slow", "scratch_address": address}
        answer = admin_client.post(draft.get_absolute_url(), wrong)
        assert answer.status_code == 422
        assert "none can be made of this name" not in answer.content.decode()
        kept = Draft.objects.get()
        assert (kept.given["queue"], "name" in kept.given) == ("slow", False)
        assert kept.sealed.keys() == {"address", "scratch_address"}
        tried(admin_client, draft.get_absolute_url(), FIELDS)
        assert (Draft.objects.get().error, Draft.objects.count()) == ("", 1)

    @pytest.mark.parametrize("before", [False, True])
    def test_reference_is_not_typed_twice_because_another_field_is_wrong(
        self, admin_client, add, environment, before
    ):
        """Also one that takes the place of an address that was sealed before."""
        where = add
        if before:
            admin_client.post(add, FIELDS | {"address": "postgresql://a:b@db/c", "name": ""})
            where = Draft.objects.get().get_absolute_url()
        answer = admin_client.post(
            where, FIELDS | {"name": environment.name, "address": " env:NEXT_DATABASE_URL"}
        )
        assert (answer.status_code, "Now env:NEXT_DATABASE_URL." in answer.content.decode()) == (
            422,
            True,
        )
        draft = Draft.objects.get()
        answer = admin_client.post(draft.get_absolute_url(), FIELDS | {"address": ""})
        assert answer.status_code == 302, answer.content.decode()
        draft.refresh_from_db()
        assert (draft.given["address"], draft.sealed) == ("env:NEXT_DATABASE_URL", {})

    def test_draft_that_was_discarded_meanwhile_does_not_rise_again(
        self, admin_client, add, monkeypatch
    ):
        admin_client.post(add, FIELDS | {"address": "postgresql://a:b@db/c"})
        draft = Draft.objects.get()
        keep_draft = drafts.keep_draft

        def keep_late(**given):
            Draft.objects.all().delete()
            return keep_draft(**given)

        monkeypatch.setattr(drafts, "keep_draft", keep_late)
        answer = admin_client.post(draft.get_absolute_url(), FIELDS)
        assert answer.status_code == 409
        assert "changed, saved or discarded meanwhile" in answer.content.decode()
        assert not Draft.objects.exists()

    def test_answer_to_an_earlier_try_is_not_kept(self, admin_client, add, database):
        admin_client.post(add, FIELDS | {"address": database()})
        draft = Draft.objects.get()
        first = WorkItem.objects.order_by("pk").last().pk
        admin_client.post(draft.get_absolute_url(), FIELDS | {"address": "env:NEXT_DATABASE_URL"})
        do_work(first)
        draft.refresh_from_db()
        assert (draft.tries, draft.tried_at, draft.sealed) == (2, None, {})
        assert draft.given["address"] == "env:NEXT_DATABASE_URL"

    def test_database_of_another_environment_is_refused_before_it_is_saved(
        self, admin_client, add, seen
    ):
        draft = tried(admin_client, add, FIELDS | {"address": seen.dsn})
        assert "two environments on one database are refused" in draft.error

    def test_folder_that_cannot_be_read_is_a_verdict_beside_those_of_the_database(
        self, admin_client, add, database, folder
    ):
        nowhere = str(folder.path / "nowhere")
        fields = FIELDS | {"address": database(), "migrations_folder": nowhere}
        draft = tried(admin_client, add, fields)
        page = admin_client.get(draft.get_absolute_url()).content.decode()
        for said in (
            "It can be read, but not all will work:",
            "The migrations could not be read:",
            f'<span lang="en">cannot read {nowhere}: No such file or directory</span>',
            "Correct the migrations folder",
            "the workers have pg_dump for it",
            "is no superuser",
            "It owns the database",
            "Add it all the same",
        ):
            assert said in page, said
        assert page.index("could not be read") < page.index("is no superuser")
        assert "The migrations folder holds no migrations" not in page

        # What is kept of the environment is what reading it anew would keep.
        admin_client.post(reverse("draft-save", args=[draft.pk]))
        target = Environment.objects.get(slug="next").targets.get()
        kept = target.latest_state
        assert (kept.data, kept.error) == ({}, draft.error)
        read_anew = observe_target(target)
        assert (read_anew.data, read_anew.error) == (kept.data, kept.error)

    def test_folder_and_database_that_cannot_be_read_are_both_said(
        self, admin_client, add, database, folder
    ):
        wrong = database().replace("target-password", "wrong-password")
        nowhere = str(folder.path / "nowhere")
        fields = FIELDS | {"address": wrong, "migrations_folder": nowhere}
        draft = tried(admin_client, add, fields)
        page = admin_client.get(draft.get_absolute_url()).content.decode()
        for said in ("password authentication failed", f"cannot read {nowhere}"):
            assert said in page, said
        assert (draft.found, "is no superuser" in page) == ({}, False)

    def test_database_of_another_environment_is_refused_with_a_folder_that_cannot_be_read(
        self, admin_client, add, seen, folder
    ):
        nowhere = str(folder.path / "nowhere")
        draft = tried(
            admin_client, add, FIELDS | {"address": seen.dsn, "migrations_folder": nowhere}
        )
        assert "two environments on one database are refused" in draft.error
        assert (draft.found, f"cannot read {nowhere}" in draft.error) == ({}, True)

    def test_short_name_taken_meanwhile_comes_back_with_the_form(
        self, admin_client, add, environment, database
    ):
        draft = tried(admin_client, add, FIELDS | {"address": database()})
        Environment.objects.create(
            application=environment.application, name="Next", slug="next", position=3
        )
        answer = admin_client.post(reverse("draft-save", args=[draft.pk]))
        assert answer.status_code == 422
        assert "already has such an environment" in answer.content.decode()
        assert Draft.objects.exists()


@pytest.mark.django_db
def test_form_says_what_is_missing_and_repeats_no_secret(admin_client, add):
    answer = admin_client.post(add, FIELDS | {"name": "…", "address": "http://secret-word@x"})
    page = answer.content.decode()
    assert (answer.status_code, "secret-word" in page) == (422, False)
    for said in (
        "Give a short name: none can be made of this name.",
        '<details class="advanced" open>',
        'href="#id_address"',
        "autofocus",
    ):
        assert said in page, said
    assert "Say where the database is." in admin_client.post(add, FIELDS).content.decode()


@pytest.mark.django_db
def test_draft_is_found_again_and_can_be_discarded(admin_client, add):
    admin_client.post(add, FIELDS | {"address": "postgresql://u:secret-word@localhost:1/d"})
    draft = Draft.objects.get()
    assert f'href="{draft.get_absolute_url()}"' in admin_client.get("/").content.decode()
    admin_client.post(reverse("draft-discard", args=[draft.pk]))
    assert not Draft.objects.exists()


@pytest.mark.django_db
def test_draft_nobody_came_back_to_is_forgotten(admin_client, add):
    admin_client.post(add, FIELDS | {"address": "postgresql://u:secret-word@localhost:1/d"})
    assert forget_old_drafts() == 0
    Draft.objects.update(made_at=timezone.now() - timedelta(days=8))
    assert forget_old_drafts() == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Production", True), ("prod-eu", True), ("EU prod", True), ("Live", True), ("PRD", True),
        ("Staging", False), ("Reproduction", False), ("Delivery", False), ("Olive", False),
    ],
)  # fmt: skip
def test_names_that_say_production(name, expected):
    assert says_production(name) is expected
