"""What will happen, as pages say it: from the steps themselves."""

from __future__ import annotations

import html
from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from backups_app import parameters as backups
from backups_app.choices import ProofLevel
from backups_app.models import Backup, BackupPolicy, ReplacedDatabase
from backups_app.runs.results import WithReplaced
from migrations_app import parameters as migrations
from opsconsole.environments.choices import AutoRollback
from opsconsole.formats import size
from opsconsole.runs.executor import _and_now
from opsconsole.runs.models import Run
from opsconsole.runs.recorder import Recorder
from opsconsole.runs.registry import OPERATIONS, outlook
from opsconsole.runs.step import RunContext
from tests.worker import observe_target


def what(asked, environment) -> list[str]:
    return [promise.what for promise in outlook(asked, environment.targets.get()).promises]


def how(asked, environment) -> dict[str, str]:
    return {
        promise.what: promise.how for promise in outlook(asked, environment.targets.get()).promises
    }


ASKED = [
    (
        migrations.MigrateParameters(),
        ["Preflight", "Backup", "Snapshot", "Migrate", "Verify", "Health"],
    ),
    (migrations.ResolveParameters(migration="m", mark="applied"), ["Mark"]),
    (
        migrations.FinishParameters(migration="m", checksum="c", landed=1),
        ["Backup", "Finish", "Health"],
    ),
    (migrations.EndSessionParameters(pid=7, user="shop", since=None), ["End session"]),
    (migrations.AdoptDriftParameters(migration="m", checksum="c", shown_schema="s"), ["Adopt"]),
    (backups.BackupParameters(), ["Preflight", "Backup", "Prove", "Copy"]),
    (backups.ProveParameters(backup=1), ["Preflight", "Prove"]),
    (backups.ImportParameters(storage=1, key="k"), ["Preflight", "Import", "Prove", "Copy"]),
    (backups.RestoreParameters(backup=1), ["Preflight", "Restore", "Swap", "Health"]),
    (
        backups.RestoreParameters(backup=1, backs_up_first=True),
        ["Preflight", "Backup", "Restore", "Swap", "Health"],
    ),
    (backups.RestoreAsParameters(backup=1, database="copy"), ["Preflight", "Restore"]),
    (backups.UndoParameters(replaced=1), ["Preflight", "Swap", "Health"]),
    (backups.PruneParameters(), ["Mark", "Delete"]),
]


def test_every_operation_says_what_it_will_do_also_of_what_is_gone(environment):
    """Nothing with these ids is there: a page of something that was just deleted still answers."""
    assert {type(asked).operation for asked, _expected in ASKED} == OPERATIONS.keys()
    for asked, expected in ASKED:
        told = outlook(asked, environment.targets.get())
        assert [promise.what for promise in told.promises] == expected
        assert all(promise.how for promise in told.promises)
        assert told.on_failure


def test_migration_without_a_backup_says_so_in_its_place(environment):
    environment.backup_before_migrate = False
    asked = migrations.MigrateParameters()
    assert what(asked, environment)[:3] == ["Preflight", "No backup", "Snapshot"]
    assert "not be able to roll back" in how(asked, environment)["No backup"]
    assert outlook(asked, environment.targets.get()).on_failure.endswith(
        "there is no backup to restore."
    )


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (
            AutoRollback.NO_WRITES,
            "no one else has written since the backup, the backup is restored",
        ),
        (AutoRollback.ALWAYS, "The migrated database is kept, with everything written since"),
        (AutoRollback.NEVER, "a person decides whether the backup is restored"),
    ],
)
def test_migration_says_what_the_policy_does_when_a_check_fails(environment, policy, text):
    environment.auto_rollback = policy
    assert text in outlook(migrations.MigrateParameters(), environment.targets.get()).on_failure


def test_promises_tell_what_is_known_of_the_environment(environment, folder):
    folder.add("20250201000000_add_team", "ALTER TABLE users ADD COLUMN team text;")
    found = observe_target(environment.targets.get()).data["server"]["size_bytes"]
    told = how(migrations.MigrateParameters(), environment)
    assert f"the {size(found)} database" in told["Backup"]
    assert "beside the live one" in told["Backup"]
    assert told["Migrate"] == (
        "applies 1 migration; stops waiting for a lock after 2 s and retries for up to 5 min"
    )
    assert told["Health"] == "runs every health check several times over 1 s"
    environment.health_checks.update(is_enabled=False)
    assert "no health check" in how(migrations.MigrateParameters(), environment)["Health"]
    environment.targets.update(scratch_dsn_encrypted="sealed")
    assert "on the scratch server" in how(backups.BackupParameters(), environment)["Prove"]


@pytest.mark.parametrize("level", [level for level in ProofLevel if level >= 0])
def test_each_level_of_proof_says_something_else(environment, level):
    others = {
        how(backups.ProveParameters(backup=1, level=other), environment)["Prove"]
        for other in ProofLevel
        if other != level
    }
    assert how(backups.ProveParameters(backup=1, level=level), environment)["Prove"] not in others


@pytest.fixture
def backup(environment, operator) -> Backup:
    run = Run.objects.create(
        operation="backup",
        kind="backup",
        status="succeeded",
        environment=environment,
        target=environment.targets.get(),
        requested_by=operator,
        idempotency_key="b",
    )
    return Backup.objects.create(
        environment=environment,
        target=environment.targets.get(),
        run=run,
        key="shop/staging/1.dump",
        size_bytes=10**6,
        raw_bytes=10**7,
        sha256="0" * 64,
        proof=3,
        restore_seconds=1.5,
        taken_at=timezone.now() - timedelta(days=1),
        manifest={
            "format": "custom",
            "compression": "zstd:1",
            "recipients": [],
            "client": "18.1",
            "server": {"version": "18.1"},
            "content": {"tables": {"public.users": {"rows": 1200, "hash": "1"}}},
        },
    )


@pytest.fixture
def replaced(environment, backup) -> ReplacedDatabase:
    return ReplacedDatabase.objects.create(
        target=environment.targets.get(),
        run=backup.run,
        live_name="a",
        built_name="b",
        replaced_name="shop__old_1",
        old_oid=1,
        new_oid=2,
        swapped_at=timezone.now() - timedelta(minutes=5),
    )


LIVE = "The databases were exchanged, and health is failing now: app: 500 unhealthy."
OFFER = "Undo, below, brings back shop__old_1."
ASIDE = (
    "shop__old_1, which Undo brings back, was unhealthy itself before it was put aside: app: 500"
)


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({-6: True, -4: True}, []),
        ({-6: True, -4: True, -1: False}, [LIVE, OFFER]),
        ({-6: False, -1: True}, [ASIDE]),
        ({-6: False, -1: False}, [LIVE, ASIDE]),
        ({-60: False, -6: True}, []),
        ({-7: False, -6: True, -4: False, -1: True}, []),
    ],
)
def test_undo_says_first_which_of_the_two_is_unhealthy(
    as_role, environment, replaced, answers, said
):
    for minutes, is_healthy in answers.items():
        environment.health_results.create(
            check_name="app",
            is_healthy=is_healthy,
            latency_ms=1,
            summary="200 ok" if is_healthy else "500 unhealthy",
            observed_at=timezone.now() + timedelta(minutes=minutes),
        )
    page = as_role("operator").get(reverse("replaced-undo", args=[replaced.pk])).content.decode()
    flat = " ".join(html.unescape(page).split())
    assert [words for words in (LIVE, OFFER, ASIDE) if words in flat] == said
    assert all(flat.index(words) < flat.index("What will happen") for words in said)


def test_exchange_that_left_the_application_unhealthy_says_that_it_happened(backup):
    context = RunContext(
        backup.run,
        None,
        WithReplaced(replaced="shop__old_1"),
        None,
        Recorder(backup.run),
        "app: 500",
    )
    assert str(_and_now(context.failure, context, OPERATIONS["undo"])) == (
        "app: 500. The databases were exchanged all the same. Undo exchanges them again: the one "
        "that was live is kept as shop__old_1."
    )


def test_pages_show_what_the_steps_promise(as_role, environment, backup, replaced):
    client = as_role("admin")
    pages = {
        reverse("backup-restore", args=[backup.pk]): backups.RestoreParameters(backup=backup.pk),
        reverse("replaced-undo", args=[replaced.pk]): backups.UndoParameters(replaced=replaced.pk),
        reverse("backup-import", args=["shop", "staging"]): backups.ImportParameters(
            storage=1, key="k"
        ),
    }
    for url, asked in pages.items():
        page = html.unescape(client.get(url).content.decode())
        told = outlook(asked, environment.targets.get())
        for promise in told.promises:
            assert f"<span>{promise.what}</span><small>{promise.how}</small>" in page
        assert told.on_failure in page
    restore = how(backups.RestoreParameters(backup=backup.pk), environment)
    assert "(1,200 rows, 10 MB, took 1.5 s when it was proven)" in restore["Restore"]
    assert "shop__old_1" in how(backups.UndoParameters(replaced=replaced.pk), environment)["Swap"]


def test_copies_that_the_policy_asks_for_are_named(environment):
    from backups_app.models import Storage

    policy = BackupPolicy.objects.of(environment)
    policy.save()
    policy.copies.add(Storage.objects.create(name="far away", url="file:///elsewhere"))
    assert "far away" in how(backups.BackupParameters(), environment)["Copy"]
