"""Operations: what their runs are stored as, and what becomes of those that an older version made."""

from __future__ import annotations

import uuid

import pytest
from django.apps import apps
from django.db import IntegrityError, connection, transaction
from django.db.migrations.executor import MigrationExecutor
from hypothesis import given
from hypothesis import strategies as st

from backups_app import parameters as backups
from backups_app.choices import BackupReason, ProofLevel
from migrations_app import parameters as migrations
from opsconsole.access.permissions import ACTIONS
from opsconsole.events.models import AuditEvent
from opsconsole.exceptions import Kind, Refused
from opsconsole.runs import services as runs
from opsconsole.runs.choices import RunKind, RunStatus
from opsconsole.runs.documents import Unreadable
from opsconsole.runs.models import Run
from opsconsole.runs.registry import OPERATIONS, parameters_of, register
from tests.conftest import log_of
from tests.worker import resolve_lost_run

BEFORE = ("opsconsole", "0008_work_list")
ANSWER = {"text": "It is tested", "ok": True, "by": "person", "note": "seen"}
# One of each shape in which parameters were stored before operations had a name.
OLD = [
    ("migrate", {}, migrations.MigrateParameters()),
    (
        "migrate",
        {"checklist": {"tested": ANSWER}, "commit": "abc"},
        migrations.MigrateParameters(
            checklist={"tested": migrations.Answer(**ANSWER)}, commit="abc"
        ),
    ),
    (
        "migrate",
        {"resolve": "m1", "mark": "applied", "title": "Mark m1 applied"},
        migrations.ResolveParameters(migration="m1", mark="applied"),
    ),
    (
        "migrate",
        {"resolve": "m1", "mark": "finish", "checksum": "c", "landed": 2, "title": "Finish"},
        migrations.FinishParameters(migration="m1", checksum="c", landed=2),
    ),
    (
        "migrate",
        {"adopt": "m2", "checksum": "c", "schema": "s", "title": "Adopt"},
        migrations.AdoptDriftParameters(migration="m2", checksum="c", shown_schema="s"),
    ),
    (
        "migrate",
        {"end_session": {"pid": 7, "user": "shop", "since": None}, "title": "End session 7"},
        migrations.EndSessionParameters(pid=7, user="shop", since=None),
    ),
    ("backup", {}, backups.BackupParameters()),
    (
        "backup",
        {"reason": "scheduled"},
        backups.BackupParameters(reason=BackupReason.SCHEDULED),
    ),
    (
        "verify",
        {"backup": 3, "level": 0},
        backups.ProveParameters(backup=3, level=ProofLevel.CHECKSUM),
    ),
    ("restore", {"backup": 3}, backups.RestoreParameters(backup=3)),
    (
        "restore",
        {"backup": 3, "backs_up_first": True},
        backups.RestoreParameters(backup=3, backs_up_first=True),
    ),
    (
        "restore",
        {"backup": 3, "database": "copy"},
        backups.RestoreAsParameters(backup=3, database="copy"),
    ),
    ("restore", {"undo": 4}, backups.UndoParameters(replaced=4)),
    ("import", {"storage": 1, "key": "k"}, backups.ImportParameters(storage=1, key="k")),
    (
        "import",
        {"storage": 1, "key": "k", "name": "a.dump", "is_upload": True},
        backups.ImportParameters(storage=1, key="k", name="a.dump", is_upload=True),
    ),
    ("prune", {}, backups.PruneParameters()),
]
TITLES = {
    "migrate": "Migrate staging",
    "resolve": "Mark m1 applied in staging",
    "finish": "Finish the rest of m1 in staging",
    "adopt_drift": "Adopt drift as m2 in staging",
    "end_session": "End session 7 in staging",
    "backup": "Back up staging",
    "prove": "Verify staging",
    "restore": "Restore staging from backup 3",
    "restore_as": "Restore backup 3 of staging as copy",
    "undo": "Undo the restore of staging",
    "import": "Import a backup of staging",
    "prune": "Prune staging",
}


def migrate_to(state: tuple[str, str]):
    executor = MigrationExecutor(connection)
    executor.migrate([state])
    return MigrationExecutor(connection).loader.project_state([state]).apps


def migrate_to_newest() -> None:
    executor = MigrationExecutor(connection)
    executor.migrate(executor.loader.graph.leaf_nodes())


@pytest.fixture
def before_operations(transactional_db):
    """The console's database as the version before had it; brought up to date again at the end."""
    yield migrate_to(BEFORE)
    migrate_to_newest()


def place(apps):
    """A target of its own for each row, so that the one-run constraints are not met."""
    application = apps.get_model("opsconsole", "Application").objects.create(
        slug=uuid.uuid4().hex, name="Shop"
    )
    environment = apps.get_model("opsconsole", "Environment").objects.create(
        application=application, slug="staging", name="Staging"
    )
    return environment, apps.get_model("opsconsole", "Target").objects.create(
        environment=environment, dsn_encrypted="x"
    )


def test_upgrade_names_the_operation_of_every_older_run_whatever_its_status(before_operations):
    made = []
    for kind, parameters, expected in OLD:
        for status in RunStatus:
            environment, target = place(before_operations)
            run = before_operations.get_model("opsconsole", "Run").objects.create(
                kind=kind,
                status=status,
                parameters=parameters,
                environment=environment,
                target=target,
                idempotency_key=uuid.uuid4().hex,
            )
            made.append((run.pk, status, parameters, expected))
    migrate_to_newest()
    for pk, status, parameters, expected in made:
        run = Run.objects.select_related("environment").get(pk=pk)
        operation = OPERATIONS[expected.operation]
        assert (run.operation, run.status) == (operation.key, status)
        assert (run.changes_target, run.excludes) == (operation.changes_target, operation.kind)
        assert (run.parameters, run.parameters_version) == (parameters, 0)
        assert operation.read(run) == expected
        assert run.title == TITLES[operation.key]


def test_database_keeps_apart_what_was_queued_before_the_upgrade(before_operations):
    environment, target = place(before_operations)
    old = before_operations.get_model("opsconsole", "Run").objects.create(
        kind="migrate",
        status="running",
        environment=environment,
        target=target,
        idempotency_key="old",
    )
    migrate_to_newest()
    run = Run.objects.get(pk=old.pk)
    again = {"environment_id": run.environment_id, "target_id": run.target_id}
    with pytest.raises(IntegrityError, match="run_one_changes_a_target"), transaction.atomic():
        Run.objects.create(
            operation="restore",
            kind="restore",
            changes_target=True,
            excludes="restore",
            idempotency_key="a",
            **again,
        )
    Run.objects.create(
        operation="backup", kind="backup", excludes="backup", idempotency_key="b", **again
    )
    with pytest.raises(IntegrityError, match="run_one_active_excludes"), transaction.atomic():
        Run.objects.create(
            operation="backup", kind="backup", excludes="backup", idempotency_key="c", **again
        )


def test_downgrade_puts_parameters_into_the_shape_that_the_older_version_reads(before_operations):
    migrate_to_newest()
    made = []
    for _kind, parameters, asked in OLD:
        environment, target = place(apps)
        operation = OPERATIONS[asked.operation]
        run = Run.objects.create(
            operation=operation.key,
            kind=operation.kind,
            parameters=asked.stored(),
            parameters_version=asked.version,
            environment_id=environment.pk,
            target_id=target.pk,
            idempotency_key=uuid.uuid4().hex,
        )
        made.append((run.pk, parameters))
    older = migrate_to(BEFORE).get_model("opsconsole", "Run")
    for pk, parameters in made:
        found = older.objects.get(pk=pk).parameters
        # What is at its default may be spelled out; the title was for showing alone.
        assert {n: found[n] for n in parameters if n != "title"} == {
            n: value for n, value in parameters.items() if n != "title"
        }
        assert not any(
            found[name] for name in found.keys() - parameters.keys() - {"reason", "level"}
        )


@pytest.mark.parametrize("asked", [asked for _kind, _parameters, asked in OLD])
def test_parameters_come_back_as_they_were_stored(asked):
    assert type(asked).read(asked.stored(), asked.version) == asked


@pytest.mark.parametrize("asked", [asked for _kind, _parameters, asked in OLD])
def test_field_that_an_operation_does_not_know_is_refused(asked):
    with pytest.raises(Unreadable, match="only_look: extra inputs are not permitted"):
        type(asked).read(asked.stored() | {"only_look": True}, asked.version)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=3,
)
NAMES = st.sampled_from(
    sorted({name for _kind, stored, asked in OLD for name in {**stored, **asked.stored()}})
)


@given(
    st.sampled_from(sorted(OPERATIONS)), st.dictionaries(NAMES, JSON, max_size=4), st.integers(0, 3)
)
def test_whatever_is_stored_is_read_or_unreadable_and_has_a_title(key, data, version):
    operation = OPERATIONS[key]
    run = Run(operation=key, kind=operation.kind, parameters=data, parameters_version=version)
    assert isinstance(operation.title_of(run, "staging"), str)
    asked = parameters_of(run)
    assert asked is None or isinstance(asked, operation.Parameters)


def test_operations_of_older_runs_are_there_and_all_take_rights_that_exist():
    assert TITLES.keys() <= OPERATIONS.keys()
    assert {operation.action for operation in OPERATIONS.values()} <= ACTIONS.keys()
    assert all(RunKind(operation.excludes) for operation in OPERATIONS.values())


def test_key_is_given_to_one_operation_only():
    with pytest.raises(ValueError, match="already is an operation prune"):
        register(OPERATIONS["prune"])


@pytest.mark.parametrize(
    ("asked", "role"),
    [
        (backups.ImportParameters(storage=1, key="k"), "operator"),
        (backups.PruneParameters(), "operator"),
        (migrations.ResolveParameters(migration="m", mark="applied"), "reviewer"),
        (backups.RestoreAsParameters(backup=1, database="x"), "viewer"),
    ],
)
def test_request_takes_the_right_of_its_operation(environment, person, asked, role):
    with pytest.raises(Refused) as refusal:
        runs.request_run(
            actor=person(role),
            target=environment.targets.get(),
            parameters=asked,
            idempotency_key="k",
        )
    assert refusal.value.kind is Kind.FORBIDDEN
    assert not Run.objects.exists()


def ask(actor, environment, asked) -> Run:
    return runs.request_run(
        actor=actor,
        target=environment.targets.get(),
        parameters=asked,
        idempotency_key=uuid.uuid4().hex,
    )


def test_claim_takes_the_right_of_its_operation(environment, admin, person):
    """An admin's import, when the admin has become an operator: starting runs is not enough."""
    run = ask(admin, environment, backups.ImportParameters(storage=1, key="k"))
    admin.memberships.update(role="operator")
    assert runs.claim_run(run.pk, "w") is None
    run.refresh_from_db()
    assert (run.status, "no longer has the right" in run.summary) == (RunStatus.FAILED, True)


@pytest.mark.parametrize(
    ("stored", "why"),
    [
        ({"operation": "vacuum"}, "cannot run Back up staging"),
        ({"parameters": {"reason": "manual", "only_look": True}}, "cannot be read: the parameters"),
    ],
)
def test_claim_is_refused_when_the_console_does_not_know_what_was_asked(
    environment, operator, stored, why
):
    run = ask(operator, environment, backups.BackupParameters())
    Run.objects.filter(pk=run.pk).update(**stored)
    assert runs.claim_run(run.pk, "w") is None
    run.refresh_from_db()
    assert run.status == RunStatus.FAILED
    assert why in run.summary
    assert AuditEvent.objects.filter(action="run.refused", run=run).count() == 1


@pytest.mark.parametrize(
    "stored", [{"operation": "vacuum"}, {"operation": "import", "parameters": {"key": 3}}]
)
def test_lost_run_that_the_console_cannot_resolve_waits_for_a_person(environment, operator, stored):
    run = ask(operator, environment, backups.BackupParameters())
    Run.objects.filter(pk=run.pk).update(status=RunStatus.LOST, claim_token=uuid.uuid4(), **stored)
    resolve_lost_run(run.pk)
    run.refresh_from_db()
    assert run.status == RunStatus.NEEDS_ATTENTION
    assert "how the run ended cannot be read" in run.summary
    assert log_of(run) == "the run was lost: lines after this one may be missing"
