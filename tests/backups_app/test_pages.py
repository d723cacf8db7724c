"""Policies, storages, holds and undo in the browser."""

from __future__ import annotations

import re
import uuid
from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from backups_app import services as backups
from backups_app.archives.encryption import new_identity, public_key
from backups_app.models import Backup, BackupPolicy, ReplacedDatabase, Storage
from backups_app.views.backups import BY_TAKEN
from opsconsole.environments.models import Environment
from opsconsole.events.models import AuditEvent
from opsconsole.runs.choices import RunKind
from opsconsole.runs.models import Run
from opsconsole.web.pages import PAGE_SIZE
from opsconsole.work.models import WorkItem
from tests.conftest import rows_read
from tests.worker import do_work, execute_run

POLICY = {
    "backup_cron": "", "verify_cron": "", "time_zone": "UTC", "verify_level": "3",
    "assertions": "", "alarm_hours": "48", "format": "custom", "level": "1", "jobs": "1",
    "recipients": "", "minimum_kept": "1", "grace_days": "7",
}  # fmt: skip


@pytest.fixture
def make_backup(environment, operator):
    """`make_backup(days=3)` lists a backup that is that old; no file belongs to it."""

    def make(days: float = 0, place: Environment = environment, **more) -> Backup:
        run = Run.objects.create(
            operation="backup",
            kind=RunKind.BACKUP,
            status="succeeded",
            environment=place,
            target=place.targets.get(),
            requested_by=operator,
            idempotency_key=uuid.uuid4().hex,
        )
        tables = {"public.users": {"rows": 200, "hash": "1"}}
        values = {
            "key": f"shop/staging/{run.pk}.dump", "size_bytes": 10**6, "raw_bytes": 10**7,
            "sha256": "0" * 64, "proof": 3, "restore_seconds": 1.5,
            "proven_at": timezone.now(), "taken_at": timezone.now() - timedelta(days=days),
            "manifest": {
                "format": "custom", "compression": "zstd:1", "recipients": [], "client": "18.1",
                "server": {"version": "18.1"}, "content": {"tables": tables},
            },
        }  # fmt: skip
        backup = Backup.objects.create(
            environment=place, target=place.targets.get(), run=run, **(values | more)
        )
        backup.copies.create(storage=Storage.objects.builtin())
        return backup

    return make


@pytest.fixture
def short_pages(monkeypatch) -> None:
    """A page of a list holds three rows."""
    monkeypatch.setattr("opsconsole.web.pages.PAGE_SIZE", 3)


def listed(client: Client, query: str = "") -> tuple[list[int], dict[str, str]]:
    """The backups of one page of the list, and where "Older" and "Newer" lead."""
    answer = client.get(f"{reverse('backups')}{query}")
    turns = re.findall(r'href="(\?[^"]*)">(Older|Newer)<', answer.content.decode())
    links = {word: address.replace("&amp;", "&") for address, word in turns}
    return [backup.pk for backup in answer.context["page"].rows], links


def path(environment: Environment) -> str:
    return reverse("backup-policy", args=[environment.application.slug, environment.slug])


def given(**changes: str) -> dict[str, str]:
    return POLICY | {"storage": str(Storage.objects.builtin().pk)} | changes


def test_policy_is_previewed_before_it_is_saved_and_saved_as_previewed(
    as_role, environment, make_backup
):
    client = as_role("admin")
    make_backup(0), make_backup(30)
    page = client.post(path(environment), given(keep_days="7", backup_cron="0 3 * * *"))
    text = page.content.decode()
    assert page.status_code == 200
    assert "1 will be kept and 1 deleted" in text
    assert "30.0 days older than the newest proven backup" in text
    assert not BackupPolicy.objects.exists()
    confirmed = re.search(r'name="confirmed" value="(\w+)"', text)[1]

    changed = client.post(
        path(environment), given(keep_days="1", confirmed=confirmed, backup_cron="0 3 * * *")
    )
    assert changed.status_code == 200
    assert not BackupPolicy.objects.exists()

    saved = client.post(
        path(environment), given(keep_days="7", confirmed=confirmed, backup_cron="0 3 * * *")
    )
    assert (saved.status_code, BackupPolicy.objects.get().keep_days) == (302, 7)
    event = AuditEvent.objects.get(action="backup_policy.changed")
    assert (event.details["before"]["keep_days"], event.details["after"]["keep_days"]) == (
        "None",
        "7",
    )
    page = client.get(environment.get_absolute_url()).content.decode()
    assert "At 03:00 (UTC)" in page


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("backup_cron", "every day", "give five fields"),
        ("backup_cron", "0 25 * * *", "25 is no hour: give 0-23, * for every one"),
        ("backup_cron", "0 3 30 2 *", "it never comes due"),
        ("maximum_bytes", "20", "Give a size with its unit, such as 20 GB."),
        ("backup_cron", "99 3 * * *", "99"),
        ("verify_cron", "0 0 31 2 *", ""),
        ("level", "20", "less than or equal to 19"),
        ("jobs", "0", "greater than or equal to 1"),
        ("recipients", "age1nonsense", "line 1 is not an age public key"),
        ("time_zone", "Mars/Phobos", "not one of the available choices"),
        ("keep_days", "-1", "greater than or equal to 0"),
    ],
)
def test_bad_policy_is_refused_with_what_is_wrong(as_role, environment, field, value, said):
    answer = as_role("admin").post(path(environment), given(**{field: value}))
    assert answer.status_code == 422
    assert said in answer.content.decode()
    assert not BackupPolicy.objects.exists()


def test_policy_may_not_copy_to_its_own_storage(as_role, environment):
    own = str(Storage.objects.builtin().pk)
    answer = as_role("admin").post(path(environment), given(copies=own))
    assert (answer.status_code, "Choose other storages" in answer.content.decode()) == (422, True)


def test_recipients_are_kept_as_they_were_written(as_role, environment):
    text = f"{public_key(new_identity())}  # the team"
    client = as_role("admin")
    page = client.post(path(environment), given(recipients=text)).content.decode()
    confirmed = re.search(r'name="confirmed" value="(\w+)"', page)[1]
    client.post(path(environment), given(recipients=text, confirmed=confirmed))
    assert BackupPolicy.objects.get().recipients == text


@pytest.mark.parametrize("role", ["viewer", "operator", "reviewer"])
def test_only_admins_edit_policies_and_storages(as_role, environment, role):
    client = as_role(role)
    for address in (path(environment), reverse("storage-add")):
        assert client.get(address).status_code == 403
        assert client.post(address, {}).status_code == 403
    assert client.post(f"{environment.get_absolute_url()}/prune", {"key": "x"}).status_code == 403


def test_storage_is_added_tested_and_retired(as_role, db, tmp_path):
    client = as_role("admin")
    values = {"name": "Disk", "url": f"file://{tmp_path}/disk"}
    saved = client.post(reverse("storage-add"), values)
    storage = Storage.objects.get(name="Disk")
    assert saved.headers["location"] == reverse("storage-test", args=[storage.pk])
    assert "No result yet" in client.get(saved.headers["location"]).content.decode()
    do_work(WorkItem.objects.get().pk)
    assert "It works" in client.get(saved.headers["location"]).content.decode()
    assert f"{tmp_path}/disk" in client.get(reverse("settings")).content.decode()
    client.post(reverse("storage-retire", args=[storage.pk]))
    assert f"{tmp_path}/disk" not in client.get(reverse("settings")).content.decode()


@pytest.mark.parametrize(
    ("url", "said"),
    [("ftp://x", "starts with file://"), ("s3://k:s@b", "must not hold a key"), ("", "required")],
)
def test_bad_storage_is_refused_with_what_is_wrong(as_role, db, url, said):
    answer = as_role("admin").post(reverse("storage-add"), {"name": "X", "url": url})
    assert (answer.status_code, said in answer.content.decode()) == (422, True)


def test_secret_of_a_storage_is_never_shown(as_role, db):
    client = as_role("admin")
    values = {"name": "B", "url": "s3://b", "access_key": "k", "secret": "shown-never"}
    client.post(reverse("storage-add"), values)
    storage = Storage.objects.get(name="B")
    assert (
        "shown-never" not in client.get(reverse("storage-edit", args=[storage.pk])).content.decode()
    )
    client.post(
        reverse("storage-edit", args=[storage.pk]),
        {"name": "B2", "url": "s3://b", "access_key": "k", "secret": ""},
    )
    kept = Storage.objects.get(pk=storage.pk)
    assert (kept.name, kept.secret_encrypted) == ("B2", storage.secret_encrypted)


def test_hold_and_release_from_the_page(as_role, make_backup):
    backup, client = make_backup(), as_role("operator")
    answer = client.post(reverse("backup-hold", args=[backup.pk]), {"reason": ""})
    assert answer.status_code == 422
    client.post(reverse("backup-hold", args=[backup.pk]), {"reason": "the audit", "until": ""})
    assert "the audit" in client.get(backup.get_absolute_url()).content.decode()
    assert "on hold" in client.get(reverse("backups")).content.decode()
    client.post(reverse("backup-release", args=[backup.pk]))
    backup.refresh_from_db()
    assert not backup.is_held


def test_backup_page_shows_copies_expiry_and_deletion(as_role, make_backup):
    backup = make_backup(expires_at=timezone.now() + timedelta(days=1), expiry_reason="too old")
    client = as_role("viewer")
    page = client.get(backup.get_absolute_url()).content.decode()
    assert "Backups folder" in page
    assert "too old. Place a hold to keep it." in page
    Backup.objects.update(deleted_at=timezone.now())
    page = client.get(backup.get_absolute_url()).content.decode()
    assert "Deleted on" in page
    assert backup.key not in client.get(reverse("backups")).content.decode()


def test_undo_page_keeps_what_was_typed_and_queues_when_right(as_role, make_backup, environment):
    backup, client = make_backup(), as_role("operator")
    replaced = ReplacedDatabase.objects.create(
        target=environment.targets.get(),
        run=backup.run,
        live_name="shop",
        built_name="shop__new1",
        replaced_name="shop__old_1",
        old_oid=1,
        new_oid=2,
        swapped_at=timezone.now(),
    )
    address = reverse("replaced-undo", args=[replaced.pk])
    page = client.get(address).content.decode()
    assert "shop__old_1" in page
    key = re.search(r'name="key" value="(\w+)"', page)[1]
    wrong = client.post(address, {"key": key, "reason": "was right", "typed_name": "production"})
    assert (wrong.status_code, "was right" in wrong.content.decode()) == (422, True)
    right = client.post(address, {"key": key, "reason": "was right", "typed_name": "staging"})
    run = Run.objects.latest("id")
    asked = {"replaced": replaced.pk, "consents": []}
    assert (right.status_code, run.parameters) == (302, asked)
    assert run.title == "Undo the restore of staging"


def test_restore_into_a_new_database_needs_no_typed_name(as_role, make_backup, environment):
    backup, client = make_backup(), as_role("operator")
    address = reverse("backup-restore", args=[backup.pk])
    key = re.search(r'name="key" value="(\w+)"', client.get(address).content.decode())[1]
    values = {
        "key": key, "environment": environment.pk, "reason": "look", "typed_name": "",
        "how": "beside",
    }  # fmt: skip
    for name in ("postgres", ""):
        refused = client.post(address, values | {"new_database": name})
        assert refused.status_code == 422
    assert "Name the new database." in refused.content.decode()
    done = client.post(address, values | {"new_database": "shop_copy"})
    assert (done.status_code, Run.objects.latest("id").parameters["database"]) == (302, "shop_copy")


def test_queries_of_the_lists_do_not_grow_with_the_backups(
    as_role, make_backup, environment, django_assert_num_queries
):
    client = as_role("admin")
    for address in (reverse("backups"), environment.get_absolute_url(), "/"):
        make_backup()
        client.get(address)
        with django_assert_num_queries(_queries(client, address)):
            client.get(address)
        before = _queries(client, address)
        make_backup(1), make_backup(2)
        assert _queries(client, address) == before


def _queries(client: Client, address: str) -> int:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as captured:
        client.get(address)
    return len(captured)


def test_download_streams_the_archive_to_admins_and_is_audited(as_role, make_backup, settings):
    backup = make_backup()
    address = reverse("backup-download", args=[backup.pk])
    assert as_role("operator").post(address).status_code == 403
    client = as_role("admin")
    refused = client.post(address)
    assert (refused.status_code, "No copy lies in a folder" in refused.content.decode()) == (
        409,
        True,
    )
    path = settings.BACKUPS_FOLDER / backup.key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"archive")
    answer = client.post(address)
    assert b"".join(answer.streaming_content) == b"archive"
    assert answer.headers["content-disposition"] == f'attachment; filename="{path.name}"'
    assert AuditEvent.objects.get(action="backup.downloaded").object_id == str(backup.pk)
    path.unlink()


@pytest.mark.usefixtures("transactional_db")
def test_restore_form_keeps_what_was_typed_and_queues_when_right(as_role, environment, operator):
    run = backups.request_backup(
        actor=operator, target=environment.targets.get(), idempotency_key="b" * 32
    )
    execute_run(run.pk, "w")
    address = reverse("backup-restore", args=[Backup.objects.get().pk])
    client = as_role("operator")
    form = {"environment": environment.pk, "reason": "try", "typed_name": "wrong", "key": "k" * 32}
    # Whether it replaces is never left to an empty field.
    answer = client.post(address, form | {"typed_name": "staging"})
    page = answer.content.decode()
    assert (answer.status_code, "Say whether the live database is replaced." in page) == (422, True)
    assert ('value="try"' in page, "checked" in page, Run.objects.count()) == (True, False, 1)
    form |= {"how": "replace", "new_database": "not_used"}
    answer = client.post(address, form)
    assert answer.status_code == 422
    assert "Type staging to confirm" in answer.content.decode()
    assert client.post(address, {}).status_code == 422
    assert client.post(address, form | {"typed_name": "staging"}).status_code == 302
    assert "not_used" not in str(Run.objects.latest("id").parameters)
    assert client.post(reverse("backup-prove", args=[Backup.objects.get().pk])).status_code == 302


def test_list_goes_on_without_a_gap_or_a_double_where_backups_have_the_same_moment(
    as_role, environment, make_environment, make_backup, short_pages
):
    client, moment = as_role("viewer"), timezone.now()
    other = make_environment("production", position=2)
    for number in range(8):
        # Two moments, each of more backups than a page holds; the rows of the older are the newer.
        taken_at = moment - timedelta(microseconds=number // 4)
        make_backup(taken_at=taken_at)
        make_backup(taken_at=taken_at, place=other)
    wanted = Backup.objects.filter(environment=environment).order_by("-taken_at", "-pk")
    keys = list(wanted.values_list("pk", flat=True))
    pages, links = [], {"Older": f"?environment={environment.pk}"}
    while "Older" in links:
        found, links = listed(client, links["Older"])
        pages.append(found)
    assert [len(page) for page in pages] == [3, 3, 2]
    assert [key for page in pages for key in page] == keys
    found, links = listed(client, links["Newer"])
    assert (found, set(links)) == (pages[1], {"Older", "Newer"})
    found, links = listed(client, links["Newer"])
    assert (found, set(links)) == (pages[0], {"Older"})


def test_list_goes_on_where_it_was_after_a_backup_is_taken_and_another_deleted(
    as_role, make_backup, short_pages
):
    client = as_role("viewer")
    keys = [make_backup(days=days).pk for days in range(5)]
    first, links = listed(client)
    assert first == keys[:3]
    make_backup()
    Backup.objects.filter(pk=keys[2]).update(deleted_at=timezone.now())
    assert listed(client, links["Older"])[0] == keys[3:]


@pytest.mark.parametrize(
    "cursor", ["nonsense", "-", "5", "-5", "5-", "1-1-1", "1e9-1", "999999999999999999-1"]
)
@pytest.mark.parametrize("side", ["before", "after"])
def test_cursor_that_is_none_leads_to_the_newest_backups(
    as_role, make_backup, short_pages, side, cursor
):
    keys = [make_backup(days=days).pk for days in range(4)]
    assert listed(as_role("viewer"), f"?{side}={cursor}")[0] == keys[:3]


def test_list_takes_as_many_queries_for_three_backups_as_for_one(
    as_role, make_backup, django_assert_num_queries
):
    client = as_role("viewer")
    make_backup()
    listed(client)
    with CaptureQueriesContext(connection) as few:
        listed(client)
    make_backup(), make_backup()
    with django_assert_num_queries(len(few)):
        assert len(listed(client)[0]) == 3


MAKE_BACKUPS = """
    INSERT INTO backups_app_backup (environment_id, target_id, run_id, reason, key, size_bytes,
        raw_bytes, sha256, manifest, proof, proof_problem, taken_at, hold_reason, expiry_reason,
        deleted_at)
    SELECT environment_id, target_id, run_id, reason, 'k' || n, 1, 1, '', '{}', 3, '',
        taken_at - n * interval '1 hour', '', '', CASE WHEN n %% 2 = 0 THEN taken_at END
    FROM backups_app_backup, generate_series(1, 5000) n WHERE id = %s
"""


@pytest.mark.parametrize("is_filtered", [False, True])
def test_deep_page_of_the_list_reads_no_backup_to_skip_it(
    as_role, environment, make_backup, is_filtered
):
    client, query = as_role("viewer"), f"?environment={environment.pk}&" if is_filtered else "?"
    with connection.cursor() as cursor:
        cursor.execute(MAKE_BACKUPS, [make_backup().pk])
        cursor.execute("ANALYZE backups_app_backup, opsconsole_environment, opsconsole_application")
    keys = list(Backup.objects.listed().values_list("pk", flat=True))
    middle = Backup.objects.get(pk=keys[1249])
    query += f"before={BY_TAKEN.cursor_of(middle)}"
    with CaptureQueriesContext(connection) as asked:
        assert listed(client, query)[0] == keys[1250 : 1250 + PAGE_SIZE]
    plans = [q["sql"] for q in asked if 'FROM "backups_app_backup"' in q["sql"]]
    with connection.cursor() as cursor:
        for sql in plans:
            cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}")
            # With the one of the cursor's own moment.
            assert rows_read(cursor.fetchone()[0][0]["Plan"], "backups_app_backup") <= PAGE_SIZE + 2
    assert len(plans) == 2
