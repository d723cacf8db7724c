"""A replaced database is dropped once, for certain, and said to be gone only when it is."""

from __future__ import annotations

import importlib
import re
import uuid
from datetime import timedelta

import psycopg
import pytest
from celery import current_app
from django.apps import apps
from django.db.models.functions import Now
from django.urls import reverse
from psycopg import sql

from backups_app import services
from backups_app.models import ReplacedDatabase
from opsconsole.events.models import AuditEvent
from opsconsole.exceptions import Kind, Refused
from opsconsole.runs.choices import RunKind, RunStatus
from opsconsole.runs.models import Run
from opsconsole.work import services as work
from opsconsole.work.models import WorkItem
from tests.conftest import superuser
from tests.worker import do_work, drop_replaced_database

pytestmark = pytest.mark.usefixtures("transactional_db")


@pytest.fixture
def replaced(environment, operator, target) -> ReplacedDatabase:
    """A database beside the live one, as a restore leaves it."""
    live = target.info.dbname
    name = f"{live}__old_1"
    target.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    oids = dict(target.execute("SELECT datname, oid::int8 FROM pg_database").fetchall())
    run = Run.objects.create(
        kind=RunKind.RESTORE,
        status=RunStatus.SUCCEEDED,
        environment=environment,
        target=environment.targets.get(),
        requested_by=operator,
        idempotency_key=uuid.uuid4().hex,
    )
    return ReplacedDatabase.objects.create(
        target=environment.targets.get(),
        run=run,
        live_name=live,
        replaced_name=name,
        built_name="x",
        old_oid=oids[name],
        new_oid=oids[live],
        size_bytes=8_000_000,
        swapped_at=Now(),
    )


@pytest.fixture
def broker(monkeypatch):
    """`broker.here` says whether it takes messages; it hands them to nobody."""

    class Broker:
        here = True

        def send(self, *_args, **_options) -> None:
            if not self.here:
                raise ConnectionError("nobody listens")

    made = Broker()
    monkeypatch.setattr(current_app, "send_task", made.send)
    return made


def is_on_the_server(replaced: ReplacedDatabase) -> bool:
    with superuser() as connection:
        found = connection.execute("SELECT FROM pg_database WHERE oid = %s", [replaced.old_oid])
        return found.fetchone() is not None


def let_time_pass() -> None:
    past = Now() - timedelta(hours=1)
    WorkItem.objects.update(due_at=past)
    WorkItem.objects.exclude(lease_expires_at=None).update(lease_expires_at=past)


def actions() -> list[str]:
    rows = AuditEvent.objects.filter(action__startswith="replaced.").order_by("id")
    return list(rows.values_list("action", flat=True))


def test_drop_asked_for_while_the_broker_is_away_is_done_when_it_is_back(replaced, admin, broker):
    broker.here = False
    services.request_drop(actor=admin, replaced=replaced, typed_name=replaced.replaced_name)

    replaced.refresh_from_db()
    assert (replaced.drop_requested_at is not None, replaced.dropped_at) == (True, None)
    assert ReplacedDatabase.objects.kept().get() == replaced
    with pytest.raises(Refused, match="is already being dropped"):
        services.request_drop(actor=admin, replaced=replaced, typed_name=replaced.replaced_name)
    assert work.sweep() == []

    broker.here = True
    item = WorkItem.objects.get()
    assert work.sweep() == [item.pk]
    do_work(item.pk)
    do_work(item.pk)

    replaced.refresh_from_db()
    assert (replaced.dropped_at is not None, is_on_the_server(replaced)) == (True, False)
    assert not ReplacedDatabase.objects.kept().exists()
    assert actions() == ["replaced.drop_requested", "replaced.dropped"]
    with pytest.raises(Refused, match="has already been dropped"):
        services.request_drop(actor=admin, replaced=replaced, typed_name=replaced.replaced_name)


def test_worker_killed_after_the_drop_and_before_it_said_so(replaced, admin, broker):
    services.request_drop(actor=admin, replaced=replaced, typed_name=replaced.replaced_name)
    item = WorkItem.objects.get()
    assert work.claim(item.pk) is not None
    drop_replaced_database(replaced)
    assert ReplacedDatabase.objects.kept().exists()

    let_time_pass()
    do_work(item.pk)

    assert not ReplacedDatabase.objects.kept().exists()
    assert actions() == ["replaced.drop_requested", "replaced.dropped"]


def rename(target: psycopg.Connection, old: str, new: str) -> None:
    target.execute(
        sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(old), sql.Identifier(new))
    )


def test_drop_that_fails_is_shown_with_its_error_and_done_when_the_cause_is_gone(
    replaced, admin, broker, as_role, settings, target
):
    settings.WORK_LATE_ATTEMPTS = 2
    services.request_drop(actor=admin, replaced=replaced, typed_name=replaced.replaced_name)
    item, client, said = WorkItem.objects.get(), as_role("admin"), []
    rename(target, replaced.replaced_name, "mine")
    for _ in range(2):
        do_work(item.pk)
        said.append(words(client.get("/backups").content.decode()))
        WorkItem.objects.update(due_at=Now())
    assert [("being dropped" in s, "drop is late" in s) for s in said] == [
        (True, False),
        (False, True),
    ]
    assert f"Last error: {replaced.replaced_name} is called mine now" in said[1]
    with pytest.raises(Refused, match=r"the last try failed: .* is called mine now"):
        services.request_drop(actor=admin, replaced=replaced, typed_name=replaced.replaced_name)
    assert is_on_the_server(replaced)

    rename(target, "mine", replaced.replaced_name)
    do_work(item.pk)
    assert not is_on_the_server(replaced)
    assert not ReplacedDatabase.objects.kept().exists()


def words(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def test_database_that_is_being_dropped_offers_neither_undo_nor_drop(
    replaced, admin, broker, as_role
):
    client, environment = as_role("admin"), replaced.target.environment
    places = ["/backups", environment.get_absolute_url(), replaced.run.get_absolute_url()]
    undo = reverse("replaced-undo", args=[replaced.pk])
    drop = reverse("replaced-drop", args=[replaced.pk])
    assert all(undo in client.get(place).content.decode() for place in places)

    assert client.post(drop, {"typed_name": replaced.replaced_name}).status_code == 302

    pages = [client.get(place).content.decode() for place in places]
    assert not any(undo in page or drop in page for page in pages)
    assert [("being dropped" in page) for page in pages] == [True, True, False]
    assert client.post(drop, {"typed_name": replaced.replaced_name}).status_code == 409
    confirmed = {"typed_name": environment.slug, "reason": "r"}
    assert client.post(undo, confirmed).status_code == 409


@pytest.mark.parametrize("typed", ["", "staging"])
def test_drop_is_refused_unless_the_name_of_the_database_was_typed(replaced, admin, broker, typed):
    with pytest.raises(Refused, match="The name does not match") as refusal:
        services.request_drop(actor=admin, replaced=replaced, typed_name=typed)
    assert (refusal.value.kind, refusal.value.field) == (Kind.INVALID, "typed_name")
    assert not WorkItem.objects.exists()


def test_database_that_was_dropped_by_hand_is_gone(replaced, admin, broker, target):
    services.request_drop(actor=admin, replaced=replaced, typed_name=replaced.replaced_name)
    target.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(replaced.replaced_name)))
    do_work(WorkItem.objects.get().pk)
    assert not ReplacedDatabase.objects.kept().exists()


def test_database_that_was_renamed_by_hand_is_kept_and_named(replaced, admin, broker, target):
    services.request_drop(actor=admin, replaced=replaced, typed_name=replaced.replaced_name)
    rename(target, replaced.replaced_name, f"{replaced.live_name}_mine")
    item = WorkItem.objects.get()
    do_work(item.pk)
    item.refresh_from_db()
    assert item.last_error == (
        f"{replaced.replaced_name} is called {replaced.live_name}_mine now: "
        "rename it back, or drop it by hand"
    )
    assert (is_on_the_server(replaced), ReplacedDatabase.objects.kept().count()) == (True, 1)


def test_drop_is_refused_while_a_run_swaps_the_database_back_in(replaced, admin, operator, broker):
    run = services.request_undo(
        actor=operator, replaced=replaced, idempotency_key="u" * 32, typed_name="staging"
    )
    with pytest.raises(Refused, match=f"Run {run.pk} is swapping"):
        services.request_drop(actor=admin, replaced=replaced, typed_name=replaced.replaced_name)
    assert not WorkItem.objects.exists()


def test_drop_asked_for_and_lost_before_the_work_list_is_looked_at_again(replaced, broker):
    migration = importlib.import_module("backups_app.migrations.0008_drops_seen_on_the_server")
    ReplacedDatabase.objects.update(dropped_at=Now())
    migration.look_again(apps, None)
    assert ReplacedDatabase.objects.kept().get().drop_requested_at is not None
    (item_id,) = work.sweep()
    do_work(item_id)
    assert (is_on_the_server(replaced), ReplacedDatabase.objects.kept().count()) == (False, 0)


def test_connection_of_the_target_that_fails_leaves_the_drop_to_be_done(replaced, admin, broker):
    services.request_drop(actor=admin, replaced=replaced, typed_name=replaced.replaced_name)
    item, role = WorkItem.objects.get(), sql.Identifier(replaced.live_name)
    with superuser() as connection:
        connection.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(role))
        do_work(item.pk)
        connection.execute(sql.SQL("ALTER ROLE {} LOGIN").format(role))
    item.refresh_from_db()
    assert "is not permitted to log in" in item.last_error
    let_time_pass()
    do_work(item.pk)
    assert not ReplacedDatabase.objects.kept().exists()
    with pytest.raises(psycopg.OperationalError):
        superuser(replaced.replaced_name)
