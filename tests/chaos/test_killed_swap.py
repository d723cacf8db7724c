"""kill -9 of the worker in each sub-step of a swap: one of two whole databases, and it is open."""

from __future__ import annotations

import pytest

from tests.chaos.console import Console, Sampler, wait_for

pytestmark = pytest.mark.chaos
MOMENTS = ["closing", "closed", "emptied", "renamed"]


def kill_worker_in_swap(console: Console, run_id: int, moment: str) -> str:
    """Kill at that moment of the run's swap; returns how the run ended, its database open."""
    with Sampler(console.application_dsn()) as sampler:
        wait_for(lambda: f"swap: {moment}" in console.log_of(run_id)
                 or console.status_of(run_id) not in {"queued", "running"}, 120, "no swap")  # fmt: skip
        console.kill_worker_of(run_id)
        status = console.wait_ended(run_id)
    assert sampler.longest < 5
    with console.superuser() as connection:
        is_open = connection.execute(
            "SELECT datallowconn FROM pg_database WHERE datname = 'sales_commission_staging'"
        ).fetchone()
    assert is_open == (True,)
    return status


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_worker_in_swap_leaves_an_open_database(demo: Console, moment: str) -> None:
    demo.ops("demo", "break-health")
    run_id = demo.started()
    status = kill_worker_in_swap(demo, run_id, moment)
    assert status in {"rolled_back", "needs_attention"}, demo.run_row(run_id)["summary"]
    assert bool(demo.run_row(run_id)["result"].get("replaced")) == (status == "rolled_back")
    if status == "needs_attention":
        demo.ops("decide", str(run_id), "failed", "--reason", "the test goes on")
    demo.worker_is_back()
    demo.ops("demo", "mend")


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_worker_in_a_chosen_way_back_leaves_an_open_database(
    busy: Console, moment: str
) -> None:
    busy.ops("demo", "break-health")
    broken = busy.migrate_to_attention()
    busy.ops("way-back", str(broken["id"]), "--reason", "broken")
    way_back = busy.ops("runs")[0]  # type: ignore[index]
    assert way_back["kind"] == "restore"
    status = kill_worker_in_swap(busy, way_back["id"], moment)
    assert status in {"succeeded", "failed"}
    happened = status == "succeeded"
    assert bool(busy.run_row(way_back["id"])["result"].get("replaced")) == happened
    assert busy.status_of(broken["id"]) == ("rolled_back" if happened else "needs_attention")
    busy.worker_is_back()
    busy.ops("demo", "mend")
