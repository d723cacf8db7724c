"""Run one command that must not outlive its parent.

A program of its own, started as `python -I -S supervisor.py OPTIONS -- COMMAND...` with the
read end of a pipe whose write end the parent alone holds. When the pipe closes (the parent
died, however it died), or no heartbeat byte came for `--silence` seconds, or the parent wrote
`T`, it ends the command's own process group and everything that was orphaned to it, and
nothing else: first `--stop-signal`, after `--grace` seconds SIGKILL. `K` kills at once.
What outlives the command, however that ended, has `--orphan-grace` seconds to end by itself.

It exits with the command's exit status (128 + N for signal N), or 125 if it ended it itself.
Standard library only: it has to start in milliseconds and to import nothing that can fail.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
ENDED_BY_US = 125
TICK_SECONDS = 0.1
ORPHANS_KILLED_FOR_SECONDS = 1


def main() -> int:
    options, command = _parse(sys.argv[1:])
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    death_signal = int(signal.Signals[options.death_signal])

    def before_exec() -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        if options.gid is not None:
            os.setgroups([])
            os.setgid(options.gid)
            os.setuid(options.uid)
        # After the change of account, which clears it.
        libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)

    try:
        child = subprocess.Popen(
            command,
            start_new_session=True,
            preexec_fn=before_exec,
            pass_fds=options.keep_fd,
        )
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 127
    # The command now holds these; an end of file on them must be its own.
    for descriptor in (0, 1):
        os.close(descriptor)
    order = _watch(child, options.control_fd, options.silence)
    if order:
        _end(child, signal.Signals[options.stop_signal], 0 if order == "K" else options.grace)
    _end_orphans(0 if order == "K" else options.orphan_grace)
    if order:
        return ENDED_BY_US
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser()
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--silence", type=float, default=0)
    parser.add_argument("--stop-signal", default="SIGTERM")
    parser.add_argument("--death-signal", default="SIGKILL")
    parser.add_argument("--grace", type=float, default=10)
    parser.add_argument("--orphan-grace", type=float, default=0)
    parser.add_argument("--keep-fd", type=int, action="append", default=[])
    parser.add_argument("--uid", type=int)
    parser.add_argument("--gid", type=int)
    split = arguments.index("--")
    return parser.parse_args(arguments[:split]), arguments[split + 1 :]


def _watch(child: subprocess.Popen, control: int, silence: float) -> str:
    """Wait for the command's end ("") or for a reason to end it ("T" or "K")."""
    heard = time.monotonic()
    while child.poll() is None:
        readable, _w, _x = select.select([control], [], [], TICK_SECONDS)
        if readable:
            received = os.read(control, 4096)
            if not received or b"T" in received:
                return "T"
            if b"K" in received:
                return "K"
            heard = time.monotonic()
        elif silence and time.monotonic() - heard > silence:
            return "T"
    return ""


def _end(child: subprocess.Popen, stop_signal: signal.Signals, grace: float) -> None:
    # The child is not reaped yet, so its group's number cannot belong to anybody else.
    deadline = time.monotonic() + grace
    if grace:
        _signal_group(child.pid, stop_signal)
    while grace and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.02)
    if child.poll() is None:
        _signal_group(child.pid, signal.SIGKILL)
        child.wait()


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _end_orphans(grace: float) -> None:
    """End what the command left behind: as subreaper, this process is now its parent."""
    deadline = time.monotonic() + grace
    while orphans := _children():
        late = time.monotonic() - deadline
        if late > ORPHANS_KILLED_FOR_SECONDS:
            return
        for pid in orphans if late >= 0 else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.02)


def _children() -> list[int]:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:  # noqa: PTH123
        return [int(pid) for pid in file.read().split()]


if __name__ == "__main__":
    sys.exit(main())
