"""The work list: a killed worker and a broker that is away; each act takes effect exactly once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import httpx
import psutil
import pytest

from tests.chaos.console import STAGING, Console, table_lock, wait_for

pytestmark = pytest.mark.chaos
# How long the broker is away, in seconds: by hand, also for ten minutes.
OUTAGE_SECONDS = float(os.environ.get("OPSCONSOLE_TEST_OUTAGE", "12"))


def replaced_database(console: Console) -> tuple[int, str]:
    """Restore a backup; the id and the name of the database that it replaced."""
    run = console.ops("backup", STAGING, "--wait")
    assert isinstance(run, dict)
    console.ops("restore", str(run["backup"]), "--to", STAGING, "--confirm", "staging", "--wait")
    with console.database() as own:
        row = own.execute(
            "SELECT id, replaced_name FROM backups_app_replaceddatabase ORDER BY id DESC LIMIT 1"
        ).fetchone()
    assert row is not None
    return row


def ask_to_drop(console: Console, client: httpx.Client, replaced: tuple[int, str]) -> None:
    pk, name = replaced
    answer = console.post(client, f"/replaced/{pk}/drop", typed_name=name)
    assert answer.status_code == 302, answer.text


def exists(console: Console, name: str) -> bool:
    with console.superuser() as cluster:
        found = cluster.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone()
    return found is not None


def is_waiting(console: Console, statement: str) -> bool:
    with console.superuser() as cluster:
        found = cluster.execute(
            "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND starts_with(query, %s)",
            [statement],
        ).fetchone()
    return found is not None


def item_of(console: Console, key: str) -> dict:
    with console.database() as own:
        row = own.execute(
            "SELECT to_jsonb(w) FROM opsconsole_workitem w WHERE key = %s", [key]
        ).fetchone()
    assert row is not None
    return row[0]


def events_of(console: Console, action: str, replaced: int) -> int:
    with console.database() as own:
        row = own.execute(
            "SELECT count(*) FROM opsconsole_auditevent"
            " WHERE action = %s AND object_id = %s AND object_type LIKE '%%eplaced%%'",
            [action, str(replaced)],
        ).fetchone()
    assert row is not None
    return row[0]


@contextmanager
def frozen(*processes: psutil.Process) -> Iterator[None]:
    """Processes that run no further, and go on afterwards if they are still there."""
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            if process.is_running():
                process.resume()


def before_it_is_taken(console: Console, key: str, name: str, ask: Callable[[], None]) -> None:
    worker = console.worker("short")
    with frozen(worker):
        ask()
        worker.kill()
    assert item_of(console, key)["attempts"] == 0


def before_it_acts(console: Console, key: str, name: str, ask: Callable[[], None]) -> None:
    worker = console.worker("short")
    with console.database() as own, ExitStack() as stack:
        with frozen(worker):
            ask()
            stack.enter_context(table_lock(own, "backups_app_replaceddatabase", "ACCESS EXCLUSIVE"))
        wait_for(lambda: item_of(console, key)["attempts"] == 1, "not taken")
        worker.kill()
    assert exists(console, name)


def while_it_acts(console: Console, key: str, name: str, ask: Callable[[], None]) -> None:
    with console.superuser() as cluster, table_lock(cluster, "pg_database", "SHARE"):
        ask()
        wait_for(lambda: is_waiting(console, "DROP DATABASE"), "not dropping")
        console.worker("short").kill()
    assert item_of(console, key)["done_at"] is None


def before_it_says_so(console: Console, key: str, name: str, ask: Callable[[], None]) -> None:
    with ExitStack() as stack:
        own = stack.enter_context(console.database())
        with console.superuser() as cluster, table_lock(cluster, "pg_database", "SHARE"):
            ask()
            wait_for(lambda: is_waiting(console, "DROP DATABASE"), "not dropping")
            stack.enter_context(table_lock(own, "opsconsole_workitem", "EXCLUSIVE"))
        wait_for(lambda: not exists(console, name), "not dropped")
        console.worker("short").kill()
    assert item_of(console, key)["done_at"] is None


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(before_it_is_taken, marks=pytest.mark.long),
        pytest.param(before_it_acts, marks=pytest.mark.long),
        while_it_acts,
        before_it_says_so,
    ],
)
def test_drop_takes_effect_once_when_its_worker_is_killed(demo: Console, point) -> None:
    pk, name = replaced_database(demo)
    client, key = demo.sign_in("admin"), f"backups_app.drop_replaced:{pk}"

    point(demo, key, name, lambda: ask_to_drop(demo, client, (pk, name)))

    wait_for(lambda: item_of(demo, key)["done_at"], "not done")
    assert not exists(demo, name)
    assert item_of(demo, key)["attempts"] == (1 if point is before_it_is_taken else 2)
    for action in ("replaced.drop_requested", "replaced.dropped"):
        assert events_of(demo, action, pk) == 1, action


def test_acts_of_an_outage_of_the_broker_take_effect_once_and_are_late_meanwhile(
    demo: Console,
) -> None:
    pk, name = replaced_database(demo)
    admin = demo.sign_in("admin")
    with demo.database() as own:
        (storage,) = own.execute("SELECT min(id) FROM backups_app_storage").fetchone()
        (environment,) = own.execute(
            "SELECT id FROM opsconsole_environment WHERE slug = 'staging'"
        ).fetchone()
        (before,) = own.execute("SELECT coalesce(max(id), 0) FROM opsconsole_workitem").fetchone()
    began = time.monotonic()
    with frozen(demo.process("valkey-server")):
        ask_to_drop(demo, admin, (pk, name))
        for address in (
            f"/settings/storages/{storage}/test-again",
            f"/settings/connections/{environment}/test",
        ):
            assert demo.post(admin, address).status_code == 302
        run_id = demo.started("backup", STAGING)
        wait_for(lambda: admin.get("/").text.count("Try now") == 3, "not shown as late")
        time.sleep(max(0, OUTAGE_SECONDS - (time.monotonic() - began)))
        assert exists(demo, name)
        assert demo.status_of(run_id) == "queued"

    def all_done() -> bool:
        with demo.database() as own:
            rows = own.execute(
                "SELECT done_at FROM opsconsole_workitem WHERE id > %s", [before]
            ).fetchall()
        return len(rows) == 3 and all(done for (done,) in rows)

    back = time.monotonic()
    wait_for(all_done, "work of the outage is not done")
    assert demo.wait_ended(run_id) == "succeeded"
    print(f"away {back - began:.0f} s; done {time.monotonic() - back:.1f} s after")
    assert not exists(demo, name)
    assert "Try now" not in admin.get("/").text
    for action in ("replaced.drop_requested", "replaced.dropped"):
        assert events_of(demo, action, pk) == 1, action
    with demo.database() as own:
        (runs,) = own.execute(
            "SELECT count(*) FROM opsconsole_run WHERE id >= %s AND kind = 'backup'", [run_id]
        ).fetchone()
        (tests,) = own.execute(
            "SELECT count(*) FROM backups_app_storage WHERE id = %s AND tested_at IS NOT NULL"
            " AND test_error = ''",
            [storage],
        ).fetchone()
    assert (runs, tests) == (1, 1)
