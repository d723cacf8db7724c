"""kill -9 of anything at any moment of a migration or an exchange, while clients write.

`OPSCONSOLE_TEST_KILLS=20 pytest tests/chaos/test_random_kills.py -s` kills so often in each; it
prints the seed, which `OPSCONSOLE_TEST_SEED` sets.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress

import psutil
import psycopg
import pytest

from tests.chaos.console import PATIENCE_SECONDS, STAGING, Console, wait_for
from tests.chaos.test_killed_swap import started_to_swap, swaps_locked

KILLS = int(os.environ.get("OPSCONSOLE_TEST_KILLS", "0"))
SEED = int(os.environ.get("OPSCONSOLE_TEST_SEED", "0")) or random.SystemRandom().randrange(10**6)
pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(not KILLS, reason="takes minutes: OPSCONSOLE_TEST_KILLS=20"),
    pytest.mark.timeout(120 + KILLS * 2 * PATIENCE_SECONDS),
]
LIVE = "sales_commission_staging"
ATOMIC = "INSERT INTO marks VALUES ({n}); SELECT pg_sleep(0.3); INSERT INTO marks VALUES ({n});\n"
MIGRATIONS = {
    "a_first": "CREATE TABLE marks (n int);\n" + ATOMIC.format(n=1),
    "b_second": ATOMIC.format(n=2),
    "c_index": 'CREATE INDEX CONCURRENTLY "marks_n" ON marks (n);\n',
    "d_last": ATOMIC.format(n=4),
}
MARKS = {"a_first": [1, 1], "b_second": [2, 2], "c_index": [], "d_last": [4, 4]}


def kill_worker(console: Console, _run_id: int) -> None:
    console.worker().kill()


def kill_server_process(console: Console, run_id: int) -> None:
    """One of the run's own: PostgreSQL then ends all sessions and recovers."""
    for pid in sessions(console, f"opsconsole:{run_id}:")[:1]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def end_session(console: Console, run_id: int) -> None:
    with console.superuser() as cluster:
        for pid in sessions(console, f"opsconsole:{run_id}:")[:1]:
            cluster.execute("SELECT pg_terminate_backend(%s)", [pid])


def kill_exchange(console: Console, _run_id: int) -> None:
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [])[-2:] == ["-m", "opsconsole.targets.swap"]:
            process.kill()


def kill_scheduler(console: Console, _run_id: int) -> None:
    console.process("manage.py", "scheduler").kill()


def kill_broker(console: Console, _run_id: int) -> None:
    console.process("valkey-server").kill()


Kill = Callable[[Console, int], None]
EVERYWHERE: list[Kill] = [
    kill_worker, kill_server_process, end_session, kill_scheduler, kill_broker,
]  # fmt: skip


def sessions(console: Console, beginning: str) -> list[int]:
    with console.superuser() as cluster:
        rows = cluster.execute(
            "SELECT pid FROM pg_stat_activity WHERE starts_with(application_name, %s)"
            " ORDER BY application_name DESC",
            [beginning],
        ).fetchall()
    return [row[0] for row in rows]


def patiently(look: Callable[[], object]) -> Callable[[], object]:
    """The same look, which finds nothing while the server recovers."""

    def looked() -> object:
        with suppress(psycopg.OperationalError):
            return look()
        return None

    return looked


def is_back(console: Console) -> bool:
    console.worker_is_back()
    return True


def strike(console: Console, run_id: int, kill: Kill, dice: random.Random, within: float) -> str:
    """Kill after a random time; returns how the run ended, once everything is back."""
    time.sleep(dice.uniform(0, within))
    with suppress(psycopg.OperationalError):
        kill(console, run_id)
    moving = {"queued", "running", "cancelling", "lost"}
    wait_for(patiently(lambda: console.status_of(run_id) not in moving), f"run {run_id} moves on")
    wait_for(patiently(lambda: is_back(console)), "no worker")
    return console.status_of(run_id)


def nothing_is_left(console: Console, run_id: int) -> None:
    def left() -> list[object]:
        with console.superuser() as cluster:
            beside = cluster.execute(
                "SELECT datname FROM pg_database WHERE datname ~ %s", [f"^{LIVE}__(proof|new)"]
            ).fetchall()
        return [*beside, *console.tools(), *sessions(console, f"opsconsole:{run_id}:")]

    try:
        wait_for(patiently(lambda: not left()), f"run {run_id} left something")
    except AssertionError as error:
        raise AssertionError(f"run {run_id} left {left()}") from error


def is_served(console: Console) -> None:
    """The live database is open, and the application writes again."""
    began: list[int] = []

    def written() -> bool:
        with console.target() as target:
            row = target.execute("SELECT sum(n_tup_ins) FROM pg_stat_user_tables").fetchone()
        assert row is not None
        began.append(int(row[0]))
        return began[-1] > began[0]

    wait_for(patiently(written), "the live database is closed, or the application does not write")


def applied(console: Console) -> dict[str, bool]:
    """Of each of the migrations, whether its history says that it was applied."""
    with console.target() as target:
        rows = target.execute(
            "SELECT migration_name FROM _prisma_migrations"
            " WHERE finished_at IS NOT NULL AND rolled_back_at IS NULL"
        ).fetchall()
    names = {row[0].partition("_")[2] for row in rows}
    return {name: name in names for name in MIGRATIONS}


def marks(console: Console) -> list[int]:
    with console.target() as target:
        if target.execute("SELECT to_regclass('marks')").fetchone() == (None,):
            return []
        return [row[0] for row in target.execute("SELECT n FROM marks ORDER BY n").fetchall()]


def test_anything_killed_inside_a_migration_under_traffic_leaves_the_truth(
    console: Console,
) -> None:
    dice = random.Random(SEED)
    print(f"\nseed {SEED}")
    for number in range(KILLS):
        console.reset()
        for name, text in MIGRATIONS.items():
            console.add_migration(name, text)
        kill = dice.choice(EVERYWHERE)
        with console.traffic():
            run_id = console.started()
            console.reaches(run_id, "migrate")
            status = strike(console, run_id, kill, dice, within=1.5)
            is_served(console)
        nothing_is_left(console, run_id)
        row, found = console.run_row(run_id), applied(console)
        print(
            f"{number}: {kill.__name__}: {status}, {sum(found.values())} applied: {row['summary']}"
        )
        assert marks(console) == [n for name in MARKS if found[name] for n in MARKS[name]]
        said = {name.partition("_")[2] for name in row["result"].get("applied", [])}
        assert {name for name in MIGRATIONS if name in said} == {n for n in found if found[n]}
        # A session may be killed while it verifies what is all there: then a person is asked.
        whole = {"succeeded", "needs_attention"} if all(found.values()) else {"failed"}
        assert status in whole, row["summary"]
        console.ops("demo", "mend")


def test_anything_killed_inside_an_exchange_under_traffic_leaves_one_open_database(
    console: Console,
) -> None:
    dice = random.Random(SEED)
    print(f"\nseed {SEED}")
    console.reset()
    taken = console.ops("backup", STAGING, "--wait")
    assert isinstance(taken, dict)
    backup = str(taken["backup"])

    def restore() -> int:
        return console.started("restore", backup, "--to", STAGING, "--confirm", "staging")

    with console.traffic():
        for number in range(KILLS):
            kill = dice.choice([*EVERYWHERE, kill_exchange])
            with swaps_locked(console):
                run_id = started_to_swap(console, restore)
            status = strike(console, run_id, kill, dice, within=0.25)
            is_served(console)
            nothing_is_left(console, run_id)
            with console.database() as own:
                kept = own.execute(
                    "SELECT new_oid, swapped_at IS NOT NULL FROM backups_app_replaceddatabase"
                    " WHERE run_id = %s",
                    [run_id],
                ).fetchone()
            with console.superuser() as cluster:
                live = cluster.execute(
                    "SELECT oid::bigint FROM pg_database WHERE datname = %s", [LIVE]
                ).fetchone()
            assert kept is not None
            assert live is not None
            summary = console.run_row(run_id)["summary"]
            print(f"{number}: {kill.__name__}: {status}, exchanged: {kept[1]}: {summary}")
            assert kept[1] == (live[0] == kept[0]), summary
            assert (status == "succeeded") == kept[1], summary
            if status == "needs_attention":
                console.ops("decide", str(run_id), "failed", "--reason", "seen")
