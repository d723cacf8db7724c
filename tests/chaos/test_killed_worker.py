"""kill -9 of the worker in each step: tools die, the run is lost, and its end is true."""

from __future__ import annotations

import time
from contextlib import ExitStack

import pytest

from tests.chaos.console import STAGING, Console, table_lock, wait_for

pytestmark = pytest.mark.chaos
PARENT = 'ADD COLUMN "parent_target_id"'


def statements_run(console: Console, run_id: int, text: str) -> int:
    """How often the server's own log shows a statement of a run in the target."""
    lines = (console.home / "logs" / "postgres.log").read_text(errors="replace").splitlines()
    session = f"@sales_commission_staging opsconsole:{run_id}:migrate "
    return sum(text in line and session in line and "statement:" in line for line in lines)


HOLDS = {
    "backup": ("payouts", "ACCESS EXCLUSIVE"),
    "migrate": ("targets", "ACCESS SHARE"),
}


@pytest.mark.parametrize("step", ["backup", "migrate"])
def test_killed_worker_in_held_step_leaves_true_state(busy: Console, step: str) -> None:
    table, mode = HOLDS[step]
    with busy.target() as other, ExitStack() as stack:
        stack.enter_context(table_lock(other, table, mode))
        run_id = busy.started()
        busy.reaches(run_id, step)
        time.sleep(0.3)
        busy.kill_worker_of(run_id)
    status = busy.wait_ended(run_id)

    assert status == "failed"
    row = busy.run_row(run_id)
    assert "The run was lost" in row["summary"]
    assert row["result"].get("applied", []) == []
    with busy.target() as target:
        found = target.execute(
            "SELECT count(*) FROM information_schema.columns WHERE column_name = 'parent_target_id'"
        ).fetchone()
        assert found == (0,)
        scratch = target.execute(
            "SELECT count(*) FROM pg_database WHERE datname LIKE 'sales_commission_staging\\_\\_%'"
        ).fetchone()
        assert scratch == (0,)
    if step == "migrate":
        assert "left nothing" in row["summary"]
        busy.worker_is_back()
        busy.ops(
            "resolve",
            STAGING,
            "20250728101500_add_parent_target_relationship",
            "--mark",
            "rolled_back",
            "--reason",
            "the worker was killed",
            "--wait",
        )
        assert busy.status == 0, busy.said
    busy.worker_is_back()
    again = busy.ops("migrate", STAGING, "--wait")
    assert again["status"] == "succeeded", again  # type: ignore[index]
    assert statements_run(busy, again["id"], PARENT) == 1  # type: ignore[index]


def hold_preflight(console: Console, stack: ExitStack) -> int:
    worker = console.worker()
    worker.suspend()
    run_id = console.started()
    other = stack.enter_context(console.target())
    stack.enter_context(table_lock(other, "_prisma_migrations", "ACCESS EXCLUSIVE"))
    worker.resume()
    return run_id


def hold_snapshot(console: Console, stack: ExitStack) -> int:
    other = stack.enter_context(console.target())
    with console.superuser() as cluster, table_lock(cluster, "pg_database", "SHARE"):
        run_id = console.started()
        wait_for(lambda: "to prove it" in console.log_of(run_id), "no proof began")
        stack.enter_context(table_lock(other, "payouts", "ACCESS EXCLUSIVE"))
    return run_id


def hold_verify(console: Console, stack: ExitStack) -> int:
    other = stack.enter_context(console.target())
    with console.target() as first, table_lock(first, "targets", "ACCESS SHARE"):
        run_id = console.started()
        console.reaches(run_id, "migrate")
        stack.enter_context(table_lock(other, "payouts", "ACCESS EXCLUSIVE"))
    return run_id


ENDS = {
    "preflight": (hold_preflight, "failed", 0),
    "snapshot": (hold_snapshot, "failed", 0),
    "verify": (hold_verify, "succeeded", 2),
}


@pytest.mark.parametrize("step", list(ENDS))
def test_killed_worker_around_the_migrations_ends_as_the_history_says(
    busy: Console, step: str
) -> None:
    hold, expected, applied = ENDS[step]
    with ExitStack() as stack:
        run_id = hold(busy, stack)
        busy.reaches(run_id, step)
        time.sleep(0.2)
        busy.kill_worker_of(run_id)

    assert busy.wait_ended(run_id) == expected
    assert len(busy.run_row(run_id)["result"]["applied"]) == applied
    busy.worker_is_back()


def test_killed_worker_while_the_way_back_is_built_asks_a_person(demo: Console) -> None:
    demo.ops("demo", "break-health")
    run_id = demo.started()
    wait_for(lambda: demo.step_of(run_id) in {"verify", "health"}, "not applied")
    with demo.superuser() as cluster, table_lock(cluster, "pg_database", "SHARE"):
        demo.reaches(run_id, "rollback")
        demo.kill_worker_of(run_id)

    assert demo.wait_ended(run_id) == "needs_attention"
    assert [way["action"] for way in demo.run_row(run_id)["result"]["ways"]] == ["restore", "keep"]
    demo.worker_is_back()
    demo.ops("way-back", str(run_id), "--reason", "the worker died", "--wait")
    assert demo.status == 0, demo.said
    assert demo.status_of(run_id) == "rolled_back"
    demo.ops("demo", "mend")


def test_killed_worker_in_health_resolves_to_succeeded(busy: Console) -> None:
    run_id = busy.started()
    busy.reaches(run_id, "health")
    busy.kill_worker_of(run_id)

    assert busy.wait_ended(run_id) == "succeeded"
    assert len(busy.run_row(run_id)["result"]["applied"]) == 2
    assert statements_run(busy, run_id, PARENT) == 1
    busy.worker_is_back()
