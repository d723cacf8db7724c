"""Start external commands: argv list, no shell, allow-listed environment, own process group.

Every command runs under `supervisor.py`, so it ends when this process ends, however that is.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from opsconsole.exceptions import AdapterError

SUPERVISOR = Path(__file__).with_name("supervisor.py")
INHERITED = ("PATH", "LANG", "LC_ALL", "TZ", "HOME", "TMPDIR", "LD_LIBRARY_PATH")
CHUNK_BYTES = 1024 * 1024
STOP_POLL_SECONDS = 0.1


def allowed_environment(*prefixes: str, **extra: str) -> dict[str, str]:
    """Return the allow-listed part of this process's environment, with `extra` added.

    Variables whose names start with one of `prefixes` are allowed too.
    """
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    asked = {name: value for name, value in os.environ.items() if name.startswith(prefixes)}
    return inherited | (asked if prefixes else {}) | extra


class Supervised:
    """A command under the supervisor. `control` is the write end of its pipe."""

    def __init__(
        self,
        argv: list[str],
        *,
        environment: dict[str, str] | None = None,
        silence_seconds: float = 0,
        grace_seconds: float = 10,
        orphan_grace_seconds: float = 0,
        stop_signal: str = "SIGTERM",
        death_signal: str = "SIGKILL",
        account: tuple[int, int] | None = None,
        keep_fds: tuple[int, ...] = (),
        stdin: int | IO[Any] = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        cwd: str | Path | None = None,
    ) -> None:
        read_end, self._control = os.pipe()
        options = [
            "--control-fd", str(read_end), "--silence", str(silence_seconds),
            "--grace", str(grace_seconds), "--orphan-grace", str(orphan_grace_seconds),
            "--stop-signal", stop_signal, "--death-signal", death_signal,
        ]  # fmt: skip
        if account:
            options += ["--uid", str(account[0]), "--gid", str(account[1])]
        for descriptor in keep_fds:
            options += ["--keep-fd", str(descriptor)]
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(SUPERVISOR), *options, "--", *argv],
                env=environment,
                pass_fds=[read_end, *keep_fds],
                start_new_session=True,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                cwd=cwd,
            )
        finally:
            os.close(read_end)
        self._closing = threading.Lock()

    def beat(self) -> None:
        """Tell the supervisor that this process is well."""
        self._tell(b".")

    def stop(self) -> None:
        """Ask for the stop signal now and SIGKILL after the grace; returns at once."""
        self._tell(b"T")

    def kill(self) -> None:
        self._tell(b"K")

    def poll(self) -> int | None:
        return self.process.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; returns the exit status, closes the pipe."""
        status = self.process.wait(timeout)
        self.close()
        return status

    def close(self) -> None:
        with self._closing:
            if self._control >= 0:
                os.close(self._control)
                self._control = -1

    def _tell(self, byte: bytes) -> None:
        with self._closing, suppress(BrokenPipeError):
            if self._control >= 0:
                os.write(self._control, byte)


class Tool:
    """A command-line tool of a run: heartbeats while this process lives, its stderr as lines.

    `on_line(text)` is called for each line of stderr from a thread of this object; with
    `merges_output` for those of standard output too, which then has no chunks. Once
    `is_stopping()` is true the tool is ended, even while it prints nothing.
    Use as a context manager: leaving it, for whatever reason, ends the tool.
    """

    def __init__(
        self,
        argv: list[str],
        *,
        on_line: Callable[[str], None],
        is_stopping: Callable[[], bool],
        environment: dict[str, str],
        heartbeat_seconds: float,
        grace_seconds: float,
        keep_fds: tuple[int, ...] = (),
        writes_to_it: bool = False,
        merges_output: bool = False,
        cwd: str | Path | None = None,
    ) -> None:
        self.name = Path(argv[0]).name
        self._interval = heartbeat_seconds / 4
        self._is_stopping = is_stopping
        self.supervised = Supervised(
            argv,
            environment=environment,
            silence_seconds=heartbeat_seconds,
            grace_seconds=grace_seconds,
            keep_fds=keep_fds,
            stdin=subprocess.PIPE if writes_to_it else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if merges_output else subprocess.PIPE,
            cwd=cwd,
        )
        for stream in (self.supervised.process.stdin, self.supervised.process.stdout):
            if stream:
                _widen(stream)
        self._done = threading.Event()
        self.last_lines: list[str] = []
        self._threads = [
            threading.Thread(target=self._beat, daemon=True),
            threading.Thread(target=self._read_lines, args=[on_line], daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Tool:
        return self

    def __exit__(self, *_error: object) -> None:
        if self.supervised.poll() is None:
            self.supervised.stop()
        for stream in (self.supervised.process.stdin, self.supervised.process.stdout):
            if stream:
                with suppress(BrokenPipeError):
                    stream.close()
        self.supervised.wait()
        self._done.set()
        for thread in self._threads:
            thread.join(timeout=5)

    @property
    def stdin(self) -> IO[bytes]:
        assert self.supervised.process.stdin is not None
        return self.supervised.process.stdin

    def chunks(self) -> Iterator[bytes]:
        """Yield what the tool prints on standard output until it ends."""
        assert self.supervised.process.stdout is not None
        while chunk := self.supervised.process.stdout.read1(CHUNK_BYTES):  # type: ignore[attr-defined]
            yield chunk

    def finish(self) -> None:
        """Wait for the end. Raises AdapterError with the tool's last words unless it was 0."""
        stdin = self.supervised.process.stdin
        if stdin:
            with suppress(BrokenPipeError):
                stdin.close()
        status = self.supervised.process.wait()
        self._threads[1].join(timeout=5)
        if status != 0:
            raise AdapterError(f"{self.name} ended with exit status {status}: {self._reason()}")

    def _reason(self) -> str:
        """The last line that says what was wrong, else the last one that says anything."""
        said = [line for line in self.last_lines if line.strip()]
        wrong = [line for line in said if "error:" in line.lower()]
        return (wrong or said or ["it printed nothing"])[-1]

    def _beat(self) -> None:
        last_beat = time.monotonic()
        while not self._done.wait(STOP_POLL_SECONDS):
            if self._is_stopping():
                self.supervised.stop()
                return
            if time.monotonic() - last_beat >= self._interval:
                last_beat = time.monotonic()
                self.supervised.beat()

    def _read_lines(self, on_line: Callable[[str], None]) -> None:
        process = self.supervised.process
        lines = process.stderr or process.stdout
        assert lines is not None
        with lines:
            for raw in lines:
                line = raw.decode(errors="replace").rstrip()
                self.last_lines = [*self.last_lines[-9:], line]
                on_line(line)


def _widen(stream: IO[Any]) -> None:
    """Let a pipe hold a MiB instead of 64 KiB: fewer switches. Without the right it stays small."""
    with suppress(OSError):
        fcntl.fcntl(stream, fcntl.F_SETPIPE_SZ, 1024 * 1024)


@contextmanager
def password_file(line: str) -> Iterator[int]:
    """Yield the descriptor of an anonymous file that holds a PGPASSFILE line.

    It never touches a disk: after a crash there is nothing to clean up. libpq asks for a
    regular file that only its owner may read; a memfd with mode 0600 is one.
    """
    descriptor = os.memfd_create("pgpass", os.MFD_CLOEXEC)
    try:
        os.fchmod(descriptor, 0o600)
        os.write(descriptor, line.encode())
        yield descriptor
    finally:
        os.close(descriptor)


def wait_all(processes: list[Supervised], seconds: float) -> list[Supervised]:
    """Wait for all of them; return those that still run after `seconds`."""
    deadline = time.monotonic() + seconds
    left = list(processes)
    while left and time.monotonic() < deadline:
        left = [process for process in left if process.poll() is None]
        if left:
            time.sleep(0.05)
    return left
