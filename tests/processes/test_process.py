"""Commands under the supervisor: they end when their parent ends, whoever kills whom."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from opsconsole.exceptions import AdapterError
from opsconsole.processes.process import (
    Supervised,
    Tool,
    allowed_environment,
    password_file,
    wait_all,
)

# Starts a grandchild in a session of its own, as a wrapper script does, prints both and waits.
FAMILY = (
    "import os, subprocess, sys, time;"
    "child = subprocess.Popen(['sleep', '300'], start_new_session=True);"
    "print(os.getpid(), child.pid, flush=True); time.sleep(300)"
)


def gone(process: psutil.Process, seconds: float = 30) -> bool:
    """Whether that process ends in time. A number alone may be another's by then."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def test_exit_status_and_signals_are_passed_on():
    assert Supervised([sys.executable, "-c", "raise SystemExit(7)"]).wait() == 7
    assert Supervised(["sh", "-c", "kill -9 $$"]).wait() == 137
    assert Supervised(["/no/such/command"], stderr=subprocess.DEVNULL).wait() == 127


@pytest.mark.parametrize("how", ["stop", "kill", "close"])
def test_command_and_its_orphans_end(how):
    command = Supervised([sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, grace_seconds=1)
    with command.process.stdout as said:
        processes = [psutil.Process(int(p)) for p in said.readline().split()]
    getattr(command, how)()
    assert command.process.wait(30) == 125
    assert all(gone(process) for process in processes)
    command.close()


def test_orphan_of_a_killed_command_ends_its_work_within_its_grace_and_no_later(tmp_path):
    quick, slow = tmp_path / "quick", tmp_path / "slow"
    orphans = f"(sleep 0.2; touch {quick}) & (sleep 30; touch {slow}) & echo $! && kill -9 $$"
    command = Supervised(["sh", "-c", orphans], stdout=subprocess.PIPE, orphan_grace_seconds=3)
    with command.process.stdout as said:
        stays = psutil.Process(int(said.readline()))
    assert command.wait(30) == 137
    assert quick.exists()
    assert gone(stays)
    assert not slow.exists()


def test_command_that_ignores_the_stop_signal_is_killed_after_the_grace():
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(99)"
    command = Supervised([sys.executable, "-c", code], stdout=subprocess.PIPE, grace_seconds=0.3)
    with command.process.stdout as said:
        said.readline()
    began = time.monotonic()
    command.stop()
    assert command.wait(30) == 125
    assert time.monotonic() - began < 30


def test_silence_of_the_parent_ends_the_command():
    assert Supervised(["sleep", "300"], silence_seconds=0.3, grace_seconds=1).wait(30) == 125


def test_kill_9_of_the_parent_ends_everything(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).resolve().parents[2])!r})\n"
        "from opsconsole.processes.process import Supervised\n"
        "import subprocess, time\n"
        f"c = Supervised([sys.executable, '-c', {FAMILY!r}], stdout=subprocess.PIPE, grace_seconds=1)\n"
        "print(c.process.stdout.readline().decode(), c.process.pid, flush=True)\n"
        "time.sleep(300)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    with parent.stdout as said:
        processes = [psutil.Process(int(p)) for p in said.readline().split()]
        processes += [psutil.Process(int(p)) for p in said.readline().split()]
    assert len(processes) == 3
    parent.kill()
    parent.wait()
    assert all(gone(process) for process in processes)


def test_kill_9_of_the_supervisor_ends_the_command():
    command = Supervised([sys.executable, "-c", FAMILY], stdout=subprocess.PIPE)
    with command.process.stdout as said:
        child = psutil.Process(int(said.readline().split()[0]))
    os.kill(command.process.pid, signal.SIGKILL)
    assert gone(child)
    command.wait()


def make_tool(argv: list[str], lines: list[str], stopping=lambda: False, **more) -> Tool:
    return Tool(
        argv,
        on_line=lines.append,
        is_stopping=stopping,
        environment=allowed_environment(),
        heartbeat_seconds=1,
        grace_seconds=1,
        **more,
    )


def test_tool_yields_its_output_and_lines():
    lines: list[str] = []
    with make_tool(["sh", "-c", "echo out; echo err >&2"], lines) as tool:
        assert b"".join(tool.chunks()) == b"out\n"
        tool.finish()
    assert lines == ["err"]


def test_tool_that_fails_says_its_last_words():
    with make_tool(["sh", "-c", "echo why >&2; exit 3"], []) as tool:
        with pytest.raises(AdapterError, match="sh ended with exit status 3: why"):
            tool.finish()


def test_silent_tool_ends_when_its_run_is_stopped():
    with make_tool(["sleep", "300"], [], stopping=lambda: True) as tool:
        assert b"".join(tool.chunks()) == b""
        with pytest.raises(AdapterError, match="125"):
            tool.finish()


def test_tool_that_is_left_early_ends():
    with make_tool(["cat"], [], writes_to_it=True) as tool:
        tool.stdin.write(b"x")
        tool.stdin.flush()
        assert next(tool.chunks()) == b"x"
        child = psutil.Process(tool.supervised.process.pid).children()[0]
    assert gone(child)


def test_environment_is_an_allow_list(monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "secret")
    assert "DATABASE_URL" not in allowed_environment(PGAPPNAME="x")
    assert allowed_environment(PGAPPNAME="x")["PGAPPNAME"] == "x"


def test_password_file_is_private_regular_and_gone_afterwards():
    with password_file("*:*:*:*:pw\n") as descriptor:
        path = Path(f"/proc/self/fd/{descriptor}")
        assert path.read_text() == "*:*:*:*:pw\n"
        assert (path.stat().st_mode & 0o777, path.is_file()) == (0o600, True)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_wait_all_returns_those_that_still_run():
    quick, slow = Supervised(["true"]), Supervised(["sleep", "300"])
    assert wait_all([quick, slow], 1) == [slow]
    slow.kill()
    assert wait_all([slow], 5) == []


def test_reason_of_a_tool_is_its_last_error_not_what_it_printed_after():
    lines = "pg_restore: error: must be owner\\nCommand was: ALTER FUNCTION x;\\n\\n"
    argv = ["sh", "-c", f"printf '{lines}' >&2; exit 1"]
    with pytest.raises(AdapterError, match="exit status 1: pg_restore: error: must be owner"):
        with Tool(
            argv,
            on_line=lambda _line: None,
            is_stopping=lambda: False,
            environment=allowed_environment(),
            heartbeat_seconds=1,
            grace_seconds=1,
        ) as tool:
            tool.finish()
