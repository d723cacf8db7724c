"""kill -9 of the worker in each sub-step of a swap: one of two whole databases, and it is open."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import psycopg
import pytest

from tests.chaos.console import STAGING, Console, Sampler, table_lock, wait_for

pytestmark = pytest.mark.chaos
LIVE = "sales_commission_staging"
SWAPS = "backups_app_replaceddatabase"


def is_open(console: Console) -> bool:
    with console.superuser() as connection:
        row = connection.execute(
            "SELECT datallowconn FROM pg_database WHERE datname = %s", [LIVE]
        ).fetchone()
    return row == (True,)


def waits_for_lock(connection: psycopg.Connection, statement: str) -> bool:
    """Whether a session on this server waits for a lock with a statement that begins so."""
    with connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND starts_with(query, %s)",
            [statement],
        ).fetchone()
    return row is not None and row[0] > 0


@contextmanager
def swaps_locked(console: Console) -> Iterator[None]:
    """The console cannot write down that a swap begins, or how it ended."""
    with console.database() as own, table_lock(own, SWAPS, "SHARE ROW EXCLUSIVE"):
        yield


@contextmanager
def catalogue_locked(console: Console) -> Iterator[None]:
    """The live database can be neither closed nor opened."""
    with console.superuser() as cluster, table_lock(cluster, "pg_database", "SHARE"):
        yield


@contextmanager
def session_that_stays(console: Console) -> Iterator[None]:
    """A stopped server process: told to end, it stays until it is continued."""
    with psycopg.connect(console.application_dsn(), autocommit=True) as session:
        pid = session.info.backend_pid
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)


@contextmanager
def name_locked(console: Console) -> Iterator[None]:
    """A comment that is not committed: sessions come and go, the name cannot change."""
    with console.superuser() as cluster, cluster.transaction(force_rollback=True):
        cluster.execute(f"COMMENT ON DATABASE {LIVE} IS 'held'")
        yield


# One that is held for longer gives up, as it should: it waits so long for one lock, and in all.
LOCK_WAIT_SECONDS, WINDOW_SECONDS = 0.8, 3.0
# How long after it stood still it is found to, at most.
FOUND_WITHIN_SECONDS = 0.1
LONGER_THAN_A_SUPERVISORS_TICK = 0.3
# What holds a swap open at a moment, and how the server shows that it has come there.
Hold = Callable[[Console], AbstractContextManager[None]]
HOLDS: dict[str, tuple[Hold, Callable[[Console], bool]]] = {
    "closing": (catalogue_locked, lambda c: waits_for_lock(c.superuser(), "ALTER DATABASE")),
    "closed": (session_that_stays, lambda c: not is_open(c)),
    "ended": (name_locked, lambda c: waits_for_lock(c.superuser(), "ALTER DATABASE")),
}


@dataclass
class HeldSwap:
    """A run whose swap stands still, and for how long it was made to."""

    run_id: int
    moment: str
    seconds: float = 0

    @property
    def was_in_time(self) -> bool:
        limit = LOCK_WAIT_SECONDS if self.moment == "closing" else WINDOW_SECONDS
        return self.seconds < limit - FOUND_WITHIN_SECONDS


@contextmanager
def swap_held(console: Console, moment: str, start: Callable[[], int]) -> Iterator[HeldSwap]:
    """Start a run and hold its swap open at that moment until the block ends."""
    hold, is_there = HOLDS["ended" if moment == "renamed" else moment]
    with ExitStack() as unwritten:
        with ExitStack() as held:
            with swaps_locked(console):
                swap = HeldSwap(started_to_swap(console, start), moment)
                held.enter_context(hold(console))
            wait_for(lambda: is_there(console), f"{moment} not reached")
            began = time.monotonic()
            if moment == "renamed":
                unwritten.enter_context(swaps_locked(console))
            else:
                yield swap
            swap.seconds = time.monotonic() - began
        if moment == "renamed":
            wait_for(lambda: waits_for_lock(console.database(), f'UPDATE "{SWAPS}"'), "no swap")
            yield swap


def started_to_swap(console: Console, start: Callable[[], int]) -> int:
    """Start a run until one is about to swap; one that this machine was too slow for is tried again."""
    moving = {"queued", "running"}

    def is_about_to(run_id: int) -> bool:
        waits = waits_for_lock(console.database(), f'INSERT INTO "{SWAPS}"')
        return waits or console.status_of(run_id) not in moving

    for _attempt in range(4):
        run_id = start()
        wait_for(partial(is_about_to, run_id), "no swap")
        row = console.run_row(run_id)
        if row["status"] in moving:
            return run_id
        is_slow = "lock timeout" in row["summary"] or "no longer reports" in row["summary"]
        assert is_slow, row["summary"]
        console.settle(run_id)
    raise AssertionError(row["summary"])


def kill_worker_in_swap(
    console: Console, moment: str, start: Callable[[], int], *, outlasts_window: bool = False
) -> HeldSwap:
    """Kill at that moment; the swap then goes on, or is held until it has given up."""
    worker = console.worker()
    with Sampler(console.application_dsn()) as sampler:
        with swap_held(console, moment, start) as swap:
            worker.kill()
            # Whatever ends with a worker has ended by then.
            time.sleep(LONGER_THAN_A_SUPERVISORS_TICK)
            if outlasts_window:
                wait_for(lambda: is_open(console) and not swap_sessions(console), "no end")
        console.loses(swap.run_id)
        console.wait_ended(swap.run_id)
    assert sampler.longest < 5
    assert is_open(console)
    return swap


def swap_sessions(console: Console) -> int:
    with console.superuser() as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'opsconsole:%:swap'"
        ).fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture
def going_back(busy: Console) -> Iterator[Console]:
    """Staging goes back by itself, whoever writes; its next migration breaks the application."""
    policy = "UPDATE opsconsole_environment SET auto_rollback = %s WHERE slug = 'staging'"
    with busy.database() as own:
        own.execute(policy, ["always"])
    busy.ops("demo", "break-health")
    yield busy
    busy.worker_is_back()
    with busy.database() as own:
        own.execute(policy, ["no_writes"])
    busy.ops("demo", "mend")


@pytest.mark.parametrize("moment", [*HOLDS, "renamed"])
def test_swap_whose_worker_was_killed_goes_on_to_its_end(going_back: Console, moment: str) -> None:
    swap = kill_worker_in_swap(going_back, moment, going_back.started)

    row = going_back.run_row(swap.run_id)
    if not swap.was_in_time:
        pytest.skip(f"this machine held the swap for {swap.seconds:.1f} s: it gave up, rightly")
    assert row["status"] == "rolled_back", row["summary"]
    with going_back.superuser() as cluster:
        kept = cluster.execute(
            "SELECT datallowconn FROM pg_database WHERE datname = %s", [row["result"]["replaced"]]
        ).fetchone()
    assert kept == (False,)


@pytest.mark.parametrize(
    "moment",
    [pytest.param(each, marks=[] if each == "closed" else pytest.mark.long) for each in HOLDS],
)
def test_swap_that_cannot_end_in_its_window_opens_the_live_database_again(
    going_back: Console, moment: str
) -> None:
    swap = kill_worker_in_swap(going_back, moment, going_back.started, outlasts_window=True)

    row = going_back.run_row(swap.run_id)
    assert row["status"] == "needs_attention", row["summary"]
    assert "replaced" not in row["result"]
    assert [way["action"] for way in row["result"]["ways"]] == ["restore", "keep"]


@pytest.mark.parametrize("moment", [pytest.param("closed", marks=pytest.mark.long), "renamed"])
def test_undo_whose_worker_was_killed_goes_on_to_its_end(busy: Console, moment: str) -> None:
    taken = busy.ops("backup", STAGING, "--wait")
    assert isinstance(taken, dict)
    confirmed = ("--confirm", "staging")
    restored = busy.ops("restore", str(taken["backup"]), "--to", STAGING, *confirmed, "--wait")
    assert isinstance(restored, dict)

    def undo() -> int:
        return busy.started("undo", str(restored["id"]), *confirmed)

    swap = kill_worker_in_swap(busy, moment, undo)
    row = busy.run_row(swap.run_id)
    if not swap.was_in_time:
        pytest.skip(f"this machine held the swap for {swap.seconds:.1f} s: it gave up, rightly")
    assert row["status"] == "succeeded", row["summary"]
    with busy.database() as own:
        undone = own.execute(
            "SELECT undone_at IS NOT NULL FROM backups_app_replaceddatabase WHERE run_id = %s",
            [restored["id"]],
        ).fetchone()
    assert undone == (True,)
    busy.worker_is_back()


def test_chosen_way_back_whose_worker_was_killed_settles_the_run_it_was_chosen_for(
    busy: Console,
) -> None:
    busy.ops("demo", "break-health")
    broken = busy.migrate_to_attention()

    def choose() -> int:
        busy.ops("way-back", str(broken["id"]), "--reason", "broken")
        return int(busy.ops("runs")[0]["id"])  # type: ignore[index]

    swap = kill_worker_in_swap(busy, "closed", choose)
    happened = busy.status_of(swap.run_id) == "succeeded"
    assert happened or not swap.was_in_time
    assert busy.status_of(broken["id"]) == ("rolled_back" if happened else "needs_attention")
    busy.worker_is_back()
    busy.ops("demo", "mend")
