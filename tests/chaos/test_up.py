"""`manage.py up` itself: how it starts, refuses, ends, and comes back after kill -9."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress

import psutil
import pytest

from tests.chaos.console import ROOT, STAGING, Console, table_lock, wait_for

pytestmark = pytest.mark.chaos


def up(console: Console, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), "up"],
        env=console.environment | environment,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )


def test_second_up_on_the_same_home_is_refused_in_one_line(console: Console) -> None:
    done = up(console)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"ops console: the console in {console.home} is already running (process {console.up.pid})"  # type: ignore[union-attr]
    ]


def test_taken_port_is_refused_in_one_line(console: Console, tmp_path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = up(console, OPSCONSOLE_HOME=str(tmp_path / "h"), OPSCONSOLE_PORT=port)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"port {port} of 127.0.0.1 is in use" in done.stderr


def test_unwritable_home_is_refused_in_one_line(console: Console) -> None:
    done = up(console, OPSCONSOLE_HOME="/proc/nowhere")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "cannot write to /proc/nowhere" in done.stderr


def test_dead_worker_is_started_again(console: Console) -> None:
    old = console.worker().pid
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: console.worker().pid != old, "not started again")
    console.worker_is_back()


def test_sigterm_cancels_the_run_and_leaves_no_process(console: Console) -> None:
    console.reset()
    with console.target() as other, table_lock(other, "payouts", "ACCESS EXCLUSIVE"):
        run_id = console.ops("migrate", STAGING)["id"]  # type: ignore[index]
        console.reaches(run_id, "backup")
        seconds = console.stop()
    assert seconds < 30
    wait_for(lambda: not console.children(), "a process is left", seconds=5)
    console.start()
    assert console.status_of(run_id) == "cancelled"


def test_kill_9_of_up_leaves_no_child_and_next_start_tells_the_truth(console: Console) -> None:
    console.reset()
    with console.target() as other, table_lock(other, "payouts", "ACCESS EXCLUSIVE"):
        run_id = console.ops("migrate", STAGING)["id"]  # type: ignore[index]
        console.reaches(run_id, "backup")
        console.up.kill()  # type: ignore[union-attr]
        console.up.wait()  # type: ignore[union-attr]
        wait_for(lambda: not console.children(), "a child is left", seconds=30)
    console.start()
    assert console.wait_ended(run_id) == "failed"
    assert "run was lost" in console.run_row(run_id)["summary"]


def test_kill_9_of_everything_then_up_starts_cleanly(console: Console) -> None:
    console.up.kill()  # type: ignore[union-attr]
    console.up.wait()  # type: ignore[union-attr]
    while children := console.children():
        for process in children:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    console.start()
    assert console.ops("runs")
