"""The work list: kept until it is done, tried again, and done by one worker at a time."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from celery import current_app
from django.core import checks
from django.db import connections, transaction
from django.db.models.functions import Now
from django.test import override_settings

from opsconsole.access.models import Membership, User
from opsconsole.environments.models import Environment
from opsconsole.events.models import AuditEvent
from opsconsole.exceptions import AdapterError, FencedOut, Kind, Refused
from opsconsole.runs.workers import Worker
from opsconsole.work import registry as work_registry
from opsconsole.work import services as work
from opsconsole.work.checks import check_work_keys, check_work_rows
from opsconsole.work.models import WorkItem
from opsconsole.work.registry import Work
from opsconsole.work.services import work_of
from tests.worker import do_work

pytestmark = pytest.mark.usefixtures("transactional_db")
KEY = "test.note"


class Handler:
    """Fails as often as it is told to, then notes a worker's name; counts how often it came."""

    def __init__(self) -> None:
        self.failures: list[Exception] = []
        self.meanwhile: Callable[[], None] = lambda: None
        self.came = 0

    def __call__(self, arguments: dict) -> Callable[[], object]:
        self.came += 1
        self.meanwhile()
        if self.failures:
            raise self.failures.pop(0)
        return lambda: Worker.objects.create(name=f"{arguments['name']}{self.came}", host="", pid=1)


@pytest.fixture
def handler(monkeypatch) -> Handler:
    made = Handler()
    monkeypatch.setitem(work_registry.WORK, KEY, Work(KEY, "Write a note", made))
    return made


@pytest.fixture
def broker(monkeypatch) -> list[int]:
    """The ids of the items that were sent; nothing takes them up."""
    sent: list[int] = []
    monkeypatch.setattr(
        current_app, "send_task", lambda _name, args, **_options: sent.append(args[0])
    )
    return sent


@pytest.fixture
def broker_away(monkeypatch) -> pytest.MonkeyPatch:
    def refuse(*_args, **_options) -> None:
        raise ConnectionError("nobody listens")

    monkeypatch.setattr(current_app, "send_task", refuse)
    return monkeypatch


def add(key: str = "", **more) -> WorkItem:
    with transaction.atomic():
        return work.add(KEY, key or uuid.uuid4().hex, {"name": "w"}, **more)


def later(item: WorkItem, seconds: float = 3600) -> None:
    """Let time go by for the item: all that it waits for is over."""
    past = Now() - timedelta(seconds=seconds)
    rows = WorkItem.objects.filter(pk=item.pk)
    rows.update(due_at=past)
    rows.exclude(lease_expires_at=None).update(lease_expires_at=past)
    rows.exclude(sent_at=None).update(sent_at=past)


def notes() -> int:
    return Worker.objects.count()


def state(item: WorkItem) -> WorkItem:
    item.refresh_from_db()
    return item


# -- adding


def test_added_outside_of_a_transaction_is_an_error(handler, broker):
    with pytest.raises(transaction.TransactionManagementError):
        work.add(KEY, "k", {})
    assert not WorkItem.objects.exists()


def test_unknown_work_is_an_error(broker):
    with pytest.raises(KeyError), transaction.atomic():
        work.add("nobody.does", "k", {})
    assert not WorkItem.objects.exists()


def test_hint_is_sent_when_the_act_is_committed_and_only_then(handler, broker):
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        work.add(KEY, "a", {"name": "w"})
        raise ZeroDivisionError
    assert (broker, WorkItem.objects.count()) == ([], 0)
    with transaction.atomic():
        item = work.add(KEY, "b", {"name": "w"})
        assert broker == []
    assert broker == [item.pk]
    assert state(item).sent_at is not None


def test_same_key_twice_is_one_item_with_one_effect(handler, broker):
    first, second = add("k"), add("k")
    assert first == second
    for item_id in [*broker, first.pk, first.pk]:
        do_work(item_id)
    assert add("k") == first
    assert (WorkItem.objects.count(), broker, handler.came, notes()) == (1, [first.pk], 1, 1)


def test_key_of_other_work_is_an_error(handler, broker):
    add("k")
    with pytest.raises(ValueError, match="used for other work"), transaction.atomic():
        work.add(KEY, "k", {"name": "another"})


# -- the hint is lost


def test_broker_away_keeps_the_item_and_the_sweeper_sends_it(handler, broker_away):
    item = add()
    assert state(item).sent_at is None
    assert work.sweep() == []
    broker_away.setattr(current_app, "send_task", lambda _name, args, **_o: do_work(args[0]))
    assert work.sweep() == [item.pk]
    assert state(item).done_at is not None
    assert work.sweep() == []
    assert (handler.came, notes()) == (1, 1)


def test_sweeper_asks_a_broker_that_is_away_once(handler, broker_away):
    for _ in range(3):
        add()
    asked: list[int] = []
    broker_away.setattr(work, "send", lambda item_id: asked.append(item_id))
    work.sweep()
    assert len(asked) == 1


def test_sweeper_leaves_a_fresh_hint_alone_and_repeats_an_old_one(handler, broker):
    item = add()
    assert work.sweep() == []
    later(item)
    assert work.sweep() == [item.pk]


# -- failing and trying again


def test_handler_that_fails_twice_then_succeeds_takes_effect_once(handler, broker):
    handler.failures = [AdapterError("the server is away"), ZeroDivisionError("secret")]
    item, said = add(), []
    for _ in range(3):
        do_work(item.pk)
        do_work(item.pk)  # not due yet, or done: nothing happens
        said.append((state(item).attempts, item.last_error, item.done_at is not None))
        assert item.claim_token is None
        later(item)
    assert said == [
        (1, "the server is away", False),
        (2, "unexpected ZeroDivisionError", False),
        (3, "", True),
    ]
    assert (handler.came, notes()) == (3, 1)


@override_settings(WORK_RETRY_SECONDS=5, WORK_RETRY_CEILING_SECONDS=900)
def test_pause_doubles_up_to_the_ceiling():
    assert [work.pause_after(n) for n in (1, 2, 3, 8, 9, 5000)] == [5, 10, 20, 640, 900, 900]


def test_failed_item_waits_for_its_pause_and_is_then_swept(handler, broker, settings):
    settings.WORK_RETRY_SECONDS = settings.WORK_RETRY_CEILING_SECONDS = 1000
    handler.failures = [AdapterError("away")]
    item = add()
    do_work(item.pk)
    assert work.sweep() == []
    assert 990 < (state(item).due_at - item.created_at).total_seconds() < 1010
    later(item)
    assert work.sweep() == [item.pk]


def test_outcome_that_cannot_be_recorded_leaves_the_item_to_be_done(handler, broker):
    Worker.objects.create(name="w1", host="", pid=1)
    item = add()
    do_work(item.pk)
    assert (state(item).done_at, item.attempts, item.last_error) == (
        None,
        1,
        "unexpected IntegrityError",
    )
    later(item)
    do_work(item.pk)
    assert state(item).done_at is not None
    assert set(Worker.objects.values_list("name", flat=True)) == {"w1", "w2"}


# -- two workers


def test_worker_killed_between_claim_and_done_is_made_up_for_when_its_lease_ends(handler, broker):
    item = add()
    killed = work.claim(item.pk)
    assert killed is not None
    do_work(item.pk)
    assert (work.sweep(), handler.came) == ([], 0)

    later(item)
    assert work.sweep() == [item.pk]
    do_work(item.pk)

    assert (state(item).attempts, handler.came, notes()) == (2, 1, 1)
    with pytest.raises(FencedOut):
        work.finish(killed, lambda: Worker.objects.create(name="late", host="", pid=1))
    assert notes() == 1


def test_two_workers_that_claim_at_once_get_one_item(handler, broker):
    item = add()

    def claim(_: int) -> WorkItem | None:
        try:
            return work.claim(item.pk)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(claim, range(8)))
    assert sum(found is not None for found in claims) == 1
    assert state(item).attempts == 1


def test_slow_handler_keeps_its_lease(handler, broker, settings):
    settings.LEASE_SECONDS, settings.LEASE_RENEW_SECONDS = 0.5, 0.1
    item, others = add(), []

    def take_long() -> None:
        for _ in range(4):
            time.sleep(0.3)
            others.append(work.claim(item.pk))

    handler.meanwhile = take_long
    do_work(item.pk)
    assert others == [None] * 4
    assert state(item).done_at is not None


# -- late


def test_item_is_late_after_three_failures(handler, broker, admin, settings):
    settings.WORK_RETRY_SECONDS = settings.WORK_LATE_SECONDS = 1000
    handler.failures = [AdapterError(f"no {n}") for n in range(3)]
    item, late = add(), []
    for _ in range(3):
        do_work(item.pk)
        late.append(list(work.late_work(admin)))
        assert state(item).is_late == bool(late[-1])
        WorkItem.objects.update(due_at=Now())
    assert late == [[], [], [item]]
    do_work(item.pk)
    assert list(work.late_work(admin)) == []


def test_item_is_late_when_nobody_took_it_up(handler, broker, admin, settings):
    settings.WORK_LATE_SECONDS = 180
    item = add()
    assert list(work.late_work(admin)) == []
    later(item, 200)
    assert (list(work.late_work(admin)), state(item).is_late) == ([item], True)
    assert work.claim(item.pk) is not None
    assert (list(work.late_work(admin)), state(item).is_late) == ([], False)


def test_item_of_unknown_work_is_late_and_neither_sent_nor_dropped(broker, admin):
    item = WorkItem.objects.create(work="older.version", key="k")
    assert list(work.late_work(admin)) == [item]
    later(item)
    assert work.sweep() == []
    do_work(item.pk)
    work.forget_done()
    assert list(work.late_work(admin)) == [item]
    assert state(item).attempts == 0
    with pytest.raises(Refused, match=r"cannot do this work: older\.version"):
        work.try_now(actor=admin, item=item)
    (warning,) = check_work_rows(databases=["default"])
    assert "older.version" in warning.msg


def test_check_finds_work_that_is_added_and_that_nobody_does(monkeypatch):
    assert check_work_keys() == []
    monkeypatch.setattr("opsconsole.work.checks.WORK_KEYS", {"typo.in_a_key"})
    (error,) = check_work_keys()
    assert (error.level, "typo.in_a_key" in error.msg) == (checks.ERROR, True)


def test_done_work_is_forgotten_after_a_while_and_other_work_never(handler, broker):
    old, young, waiting = add(), add(), add()
    for item in (old, young):
        do_work(item.pk)
    long_ago = Now() - timedelta(days=40)
    WorkItem.objects.filter(pk=old.pk).update(done_at=long_ago)
    WorkItem.objects.filter(pk=waiting.pk).update(created_at=long_ago, due_at=long_ago)
    work.forget_done()
    assert set(WorkItem.objects.all()) == {young, waiting}


# -- who may see it, and try it now


@pytest.fixture
def items(handler, broker, make_environment) -> dict[str, WorkItem]:
    one, other = make_environment("one"), make_environment("other", position=2)
    return {"one": add(environment=one), "other": add(environment=other), "console": add()}


def member(role: str, **where) -> User:
    user = User.objects.create_user(uuid.uuid4().hex)
    Membership.objects.create(user=user, role=role, **where)
    return user


def names_of(items: dict[str, WorkItem], user: User, action: str) -> set[str]:
    allowed = set(work_of(user, action))
    return {name for name, item in items.items() if item in allowed}


def test_work_is_seen_where_its_environment_is_and_the_console_s_by_its_admins(items):
    one = Environment.objects.get(slug="one")
    seen = {
        "admin": names_of(items, member("admin"), "console.view"),
        "operator": names_of(items, member("operator"), "console.view"),
        "viewer of one": names_of(items, member("viewer", environment=one), "console.view"),
        "admin of one": names_of(items, member("admin", environment=one), "console.view"),
        "nobody": names_of(items, User.objects.create_user("x"), "console.view"),
    }
    assert seen == {
        "admin": {"one", "other", "console"},
        "operator": {"one", "other"},
        "viewer of one": {"one"},
        "admin of one": {"one"},
        "nobody": set(),
    }
    Environment.objects.filter(pk=one.pk).update(archived_at=Now())
    assert names_of(items, member("admin"), "console.view") == {"one", "other", "console"}
    assert names_of(items, member("operator"), "console.view") == {"other"}


def test_try_now_takes_an_operator_of_the_environment_and_is_audited(items, broker):
    one = Environment.objects.get(slug="one")
    item = items["one"]
    WorkItem.objects.filter(pk=item.pk).update(
        due_at=Now() + timedelta(hours=1), attempts=4, last_error="away"
    )
    item.refresh_from_db()
    del broker[:]
    for who, name in (
        (member("viewer"), "one"),
        (member("operator", environment=one), "other"),
        (member("operator"), "console"),
    ):
        with pytest.raises(Refused) as refusal:
            work.try_now(actor=who, item=items[name])
        assert refusal.value.kind is Kind.FORBIDDEN
    assert broker == []

    actor = member("operator", environment=one)
    work.try_now(actor=actor, item=item)

    assert broker == [item.pk]
    event = AuditEvent.objects.get(action="work.retried")
    assert (event.actor, event.environment, event.details) == (
        actor,
        one,
        {"work": KEY, "attempts": 4, "last_error": "away"},
    )
    do_work(item.pk)
    assert state(item).done_at is not None


def test_try_now_is_refused_while_a_worker_is_at_it_and_when_it_is_done(items, admin):
    item = items["one"]
    claimed = work.claim(item.pk)
    for _ in range(2):
        with pytest.raises(Refused, match="done, or a worker is at it"):
            work.try_now(actor=admin, item=item)
        if state(item).done_at is None:
            work.finish(claimed, lambda: None)
    assert not AuditEvent.objects.filter(action="work.retried").exists()
