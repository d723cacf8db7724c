"""Each act and its audit event are one transaction: what cannot be recorded does not happen."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import pytest
from allauth.mfa.models import Authenticator
from cryptography.fernet import Fernet
from django.apps import apps
from django.db import connection
from django.test import Client
from django.utils import timezone

from backups_app.models import Backup, BackupPolicy, ReplacedDatabase, Storage
from backups_app.parameters import BackupParameters
from backups_app.services import backups, policies, restores, storages
from migrations_app.models import ExpectedSchema, Repository, SchemaReading, SchemaText, Waiver
from migrations_app.services import applications, drift, findings, repositories
from opsconsole.access import people, sessions
from opsconsole.access.choices import Guesser
from opsconsole.access.guessing import MOST, take_guess
from opsconsole.access.models import Membership, OpenSession, User
from opsconsole.audit.models import StrangerCount
from opsconsole.audit.refusals import record_strangers
from opsconsole.environments import drafts
from opsconsole.environments import services as environments
from opsconsole.environments.models import (
    Application,
    Draft,
    Environment,
    Target,
    TargetState,
)
from opsconsole.events import recording
from opsconsole.events.catalogue import CATALOGUE
from opsconsole.exceptions import Refused
from opsconsole.health import checks
from opsconsole.health import services as health
from opsconsole.health.models import HealthCheck
from opsconsole.runs import retention
from opsconsole.runs import services as runs
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.models import Run
from opsconsole.work import services as work
from opsconsole.work.models import WorkItem
from tests.worker import rotate_keys

HOUR = timedelta(hours=1)
FINDING = {"rule": "r", "line": 1, "text": "t"}
MIGRATION = {"name": "m", "state": "pending", "checksum": "c", "findings": [FINDING]}


# The newer one first.
KEYS = [Fernet.generate_key().decode() for _key in range(2)]


@dataclass
class There:
    """An environment without a database, and what is made in it to act on."""

    admin: User
    other: User
    environment: Environment

    @property
    def application(self) -> Application:
        return self.environment.application

    @property
    def target(self) -> Target:
        return self.environment.targets.get()

    def in_environment(self, **fields) -> Target:
        """The target, of the environment as it would be."""
        target = self.target
        target.environment = changed(self.environment, **fields)
        return target

    @property
    def check(self) -> HealthCheck:
        return self.environment.health_checks.get()

    def one_guess_too_many(self) -> Callable[[], object]:
        guess = partial(take_guess, name="maja", address="192.0.2.1")
        for _time in range(MOST[Guesser.NAME]):
            guess()
        return guess

    def with_a_factor(self) -> User:
        Authenticator.objects.create(user=self.other, type="totp", data={})
        return self.other

    def open_session(self) -> OpenSession:
        client = Client()
        client.force_login(self.other)
        client.get("/preferences")
        return OpenSession.objects.get(user=self.other)

    def under_an_older_key(self) -> None:
        secret = Fernet(KEYS[1]).encrypt(b"postgresql://h/d").decode()
        Target.objects.update(scratch_dsn_encrypted=secret)

    def run(self, status: RunStatus = RunStatus.SUCCEEDED, **fields) -> Run:
        asked = BackupParameters()
        return Run.objects.create(
            operation=asked.operation,
            kind="backup",
            environment=self.environment,
            target=self.target,
            status=status,
            requested_by=self.admin,
            parameters=asked.stored(),
            parameters_version=asked.version,
            idempotency_key="made here",
            **fields,
        )

    def claimed(self) -> Run:
        ended = timezone.now() - HOUR
        return self.run(RunStatus.RUNNING, claim_token=uuid.uuid4(), lease_expires_at=ended)

    def refused(self) -> Run:
        run = self.run(RunStatus.QUEUED)
        self.admin.memberships.update(role="viewer")
        return run

    def old_log(self) -> Run:
        """A run whose log is older than logs are kept, in a partition that others left."""
        ended = timezone.now() - 1000 * HOUR
        run = self.run(log_seq=1, created_at=ended, finished_at=ended)
        with connection.cursor() as cursor:
            # As a commit does: no table is altered while keys of its rows wait to be looked at.
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        run.log_chunks.create(first_seq=1, last_seq=1, lines=[[0, "", "a"]])
        retention.part_log()
        return run

    def backup(self, **fields) -> Backup:
        made = Backup.objects.create(
            environment=self.environment,
            target=self.target,
            run=self.run(),
            key="k",
            size_bytes=1,
            raw_bytes=1,
            sha256="0" * 64,
            manifest={},
            **fields,
        )
        made.copies.create(storage=Storage.objects.builtin())
        return made

    def replaced(self) -> ReplacedDatabase:
        return ReplacedDatabase.objects.create(
            target=self.target,
            run=self.run(),
            live_name="a",
            replaced_name="b",
            built_name="c",
            old_oid=1,
            new_oid=2,
            swapped_at=timezone.now(),
        )

    def waiver(self) -> Waiver:
        return Waiver.objects.create(
            application=self.application,
            migration="m",
            checksum="c",
            rule="r",
            reason="x",
            waived_by=self.admin,
        )

    def drifted(self) -> str:
        """The hash of a schema that differs from the expected one."""
        expected, found = (
            SchemaText.objects.create(sha256=letter * 64, definitions={f"table {letter}": "x"})
            for letter in "ab"
        )
        ExpectedSchema.objects.create(target=self.target, schema=expected)
        SchemaReading.objects.create(target=self.target, schema=found)
        return found.pk

    def repository(self) -> Repository:
        return Repository.objects.create(application=self.application, url="https://localhost/x")

    def storage(self) -> Storage:
        return Storage.objects.create(name="bucket", url="file:///nowhere", is_shared=True)

    def stranger(self) -> StrangerCount:
        return StrangerCount.objects.create(kind="signed_out", minute=timezone.now() - HOUR)

    def viewer(self) -> Membership:
        return self.other.memberships.get()

    def item(self) -> WorkItem:
        name = environments.TEST_CONNECTION
        return WorkItem.objects.create(work=name, key="k", environment=self.environment)


@pytest.fixture
def there(db, person) -> There:
    application = Application.objects.create(slug="shop", name="Shop")
    environment = Environment.objects.create(
        application=application, slug="staging", name="Staging", position=1
    )
    target = Target.objects.create(environment=environment, dsn_reference="env:NOWHERE")
    TargetState.objects.create(target=target, data={"migrations": [MIGRATION]})
    HealthCheck.objects.create(environment=environment, name="a", kind="sql", address="SELECT 1")
    Storage.objects.builtin()
    return There(person("admin"), person("viewer"), environment)


# By the event that it records: makes what is acted on, and returns the act.
ACTS: dict[str, Callable[[There], Callable[[], object]]] = {
    "person.added": lambda x: partial(
        people.add_person, actor=x.admin, user=User(username="new"), role="viewer"
    ),
    "person.disabled": lambda x: partial(people.lock_out, actor=x.admin, user=x.other),
    "person.enabled": lambda x: partial(
        people.let_in, actor=x.admin, user=User.objects.create_user("out", is_active=False)
    ),
    "person.guessing_stopped": lambda x: x.one_guess_too_many(),
    "person.password_changed": lambda x: partial(
        people.change_password, user=x.other, password="new"
    ),
    "person.password_link_made": lambda x: partial(
        people.make_password_link, actor=x.admin, user=x.other
    ),
    "person.password_set": lambda x: partial(
        people.set_password_by_link, user=x.other, password="new"
    ),
    "person.session_ended": lambda x: partial(
        sessions.end_session, actor=x.admin, session=x.open_session()
    ),
    "person.sessions_ended": lambda x: partial(
        sessions.end_sessions, actor=x.admin, user=x.open_session().user
    ),
    "person.factors_taken": lambda x: partial(
        people.take_factors, actor=x.admin, user=x.with_a_factor()
    ),
    "access.strangers_refused": lambda x: (x.stranger(), record_strangers)[1],
    "role.granted": lambda x: partial(
        people.grant_role, actor=x.admin, membership=Membership(user=x.other, role="admin")
    ),
    "role.revoked": lambda x: partial(people.revoke_role, actor=x.admin, membership=x.viewer()),
    "work.retried": lambda x: partial(work.try_now, actor=x.admin, item=x.item()),
    "health_check.added": lambda x: partial(
        checks.save_health_check,
        actor=x.admin,
        check=HealthCheck(environment=x.environment, name="b", kind="sql", address="SELECT 1"),
        before={},
    ),
    "health_check.changed": lambda x: partial(
        checks.save_health_check, actor=x.admin, check=changed(x.check, name="new"), before={}
    ),
    "health_check.removed": lambda x: partial(
        checks.delete_health_check, actor=x.admin, check=x.check
    ),
    "health.check_requested": lambda x: partial(
        health.request_check, actor=x.admin, environment=x.environment
    ),
    "encryption.key_rotated": lambda x: (
        x.under_an_older_key(),
        partial(rotate_keys, actor=x.admin),
    )[1],
    "folder.allowed": lambda x: partial(
        applications.allow_folder, actor=x.admin, folder="/usr/share"
    ),
    "draft.tried": lambda x: partial(
        drafts.keep_draft,
        actor=x.admin,
        draft=Draft(application=x.application),
        given={"name": "New"},
        secrets={"address": "postgresql://h/d"},
    ),
    "application.added": lambda x: partial(
        environments.save_application,
        actor=x.admin,
        application=Application(slug="new", name="New"),
        before={},
    ),
    "application.changed": lambda x: partial(
        environments.save_application,
        actor=x.admin,
        application=changed(x.application, name="new"),
        before={},
    ),
    "application.archived": lambda x: partial(
        environments.archive_application, actor=x.admin, application=x.application
    ),
    "environment.added": lambda x: partial(
        environments.save_environment,
        actor=x.admin,
        target=Target(
            environment=Environment(application=x.application, slug="new", name="New", position=2)
        ),
        before={},
        address="env:ANOTHER",
    ),
    "environment.changed": lambda x: partial(
        environments.save_environment,
        actor=x.admin,
        target=x.in_environment(name="new"),
        before={},
        address="env:ANOTHER",
    ),
    "environment.archived": lambda x: partial(
        environments.archive_environment, actor=x.admin, environment=x.environment
    ),
    "target.tested": lambda x: partial(
        environments.request_connection_test, actor=x.admin, target=x.target
    ),
    "run.requested": lambda x: partial(
        runs.request_run,
        actor=x.admin,
        target=x.target,
        parameters=BackupParameters(),
        idempotency_key="k",
    ),
    "run.refused": lambda x: partial(runs.claim_run, x.refused().pk, "w"),
    "run.started": lambda x: partial(runs.claim_run, x.run(RunStatus.QUEUED).pk, "w"),
    "run.duplicate_delivery": lambda x: partial(runs.claim_run, x.claimed().pk, "w"),
    "run.ended": lambda x: partial(runs.finish_run, x.claimed(), RunStatus.SUCCEEDED, "done"),
    "run.lost": lambda x: (x.claimed(), runs.reap_expired)[1],
    "run.decided": lambda x: partial(
        runs.decide_run,
        actor=x.admin,
        run=x.run(RunStatus.NEEDS_ATTENTION),
        status=RunStatus.FAILED,
        reason="why",
    ),
    "run.cancel_requested": lambda x: partial(
        runs.request_cancel, actor=x.admin, run=x.run(RunStatus.QUEUED)
    ),
    "run.logs_deleted": lambda x: (x.old_log(), retention.delete_old_logs)[1],
    "backup.held": lambda x: partial(
        backups.hold_backup, actor=x.admin, backup=x.backup(), reason="why", until=None
    ),
    "backup.released": lambda x: partial(
        backups.release_backup, actor=x.admin, backup=x.backup(held_at=timezone.now())
    ),
    "backup_policy.changed": lambda x: partial(
        policies.save_policy,
        actor=x.admin,
        policy=changed(BackupPolicy.objects.of(x.environment), keep_days=1),
        copies=[x.storage()],
        before={},
    ),
    "storage.added": lambda x: partial(
        storages.save_storage,
        actor=x.admin,
        storage=Storage(name="new", url="file:///new"),
        before={},
    ),
    "storage.changed": lambda x: partial(
        storages.save_storage, actor=x.admin, storage=changed(x.storage(), name="new"), before={}
    ),
    "storage.tested": lambda x: partial(storages.request_test, actor=x.admin, storage=x.storage()),
    "storage.retired": lambda x: partial(
        storages.retire_storage, actor=x.admin, storage=x.storage()
    ),
    "restore.checked": lambda x: partial(
        restores.request_check, actor=x.admin, backup=x.backup(), target=x.target
    ),
    "replaced.drop_requested": lambda x: partial(
        restores.request_drop, actor=x.admin, replaced=x.replaced(), typed_name="b"
    ),
    "finding.waived": lambda x: partial(
        findings.waive_finding,
        actor=x.admin,
        target=x.target,
        migration="m",
        rule="r",
        reason="why",
    ),
    "finding.waiver_withdrawn": lambda x: partial(
        findings.withdraw_waiver, actor=x.admin, environment=x.environment, waiver=x.waiver()
    ),
    "lint.levels_set": lambda x: partial(
        findings.set_levels,
        actor=x.admin,
        application=x.application,
        levels={"destroys-data": "off"},
    ),
    "drift.acknowledged": lambda x: partial(
        drift.acknowledge,
        actor=x.admin,
        target=x.target,
        schema=x.drifted(),
        reason="why",
    ),
    "repository.added": lambda x: partial(
        repositories.save_repository,
        actor=x.admin,
        repository=Repository(application=x.application, url="https://localhost/x"),
    ),
    "repository.changed": lambda x: partial(
        repositories.save_repository, actor=x.admin, repository=changed(x.repository(), ref="new")
    ),
    "repository.removed": lambda x: partial(
        repositories.remove_repository, actor=x.admin, repository=x.repository()
    ),
}
# These change nothing beside, or their change is a file's or a server's, tested where that is.
ELSEWHERE = {
    "person.signed_in",
    "person.signed_out",
    "person.confirmed",
    "person.sign_in_failed",
    "person.factor_added",
    "person.factor_renamed",
    "person.factor_removed",
    "person.factor_failed",
    "person.recovery_codes_made",
    "person.recovery_code_used",
    "access.refused",
    "file.downloaded",
    "demo.created",
    "demo.reset",
    "backup.downloaded",
    "backup.copy_deleted",
    "backup.deleted",
    "replaced.dropped",
    "recovery_kit.printed",
    "encryption.key_added",
    "encryption.older_keys_forgotten",
}


def changed(thing, **fields):
    for name, value in fields.items():
        setattr(thing, name, value)
    return thing


def everything() -> dict[str, list[tuple]]:
    """Every row that the console has."""
    return {
        model._meta.label: sorted(model._default_manager.values_list(), key=str)
        for model in apps.get_models(include_auto_created=True)
    }


@pytest.mark.parametrize("key", ACTS)
def test_act_that_cannot_be_recorded_changes_nothing(there, key, monkeypatch, settings):
    settings.LOG_MONTHS = 1
    settings.ENCRYPTION_KEYS = KEYS
    monkeypatch.setattr(retention, "LOCK_WAIT", "20s")

    def refuse(event, row):
        assert event.key == key
        raise Refused("the audit trail takes nothing")

    act = ACTS[key](there)
    before = everything()
    monkeypatch.setattr(recording, "LISTENERS", [refuse])
    with pytest.raises(Refused, match="the audit trail takes nothing"):
        act()
    assert everything() == before


def test_every_event_is_that_of_an_act_above():
    assert set(CATALOGUE) - set(ACTS) == ELSEWHERE
