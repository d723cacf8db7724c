"""A console as `make up` runs it, in a process of its own, with the demo; and ways to hurt it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import psycopg

from opsconsole.demo.address import dsn_of, find
from opsconsole.embedded.home import Home

ROOT = Path(__file__).resolve().parent.parent.parent
STAGING = "sales-commission/staging"
# Clients of `ops demo traffic`. Ten is what the promises are made for; three fit a small CI machine.
CLIENTS = os.environ.get("OPSCONSOLE_TEST_CLIENTS", "3")
# For what is not promised within a time: a frozen machine is not a failure.
PATIENCE_SECONDS = 240
SCALE = float(os.environ.get("OPSCONSOLE_TEST_SCALE", "0.05"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(what: Callable[[], object], why: str, *, seconds: float = PATIENCE_SECONDS) -> object:
    """Return the first truthy value; fail after `seconds`, which are given where one promises."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = what()
        if value:
            return value
        time.sleep(0.03)
    raise AssertionError(f"not within {seconds} s: {why}")


def has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Console:
    """`manage.py up` on a home of its own."""

    def __init__(self, scale: float = SCALE) -> None:
        self.scale = scale
        self.home = Path(tempfile.mkdtemp(prefix="opsc-up-"))
        self.home.chmod(0o711)
        self.port = free_port()
        self.environment = {
            k: v for k, v in os.environ.items() if k not in {"DATABASE_URL", "REDIS_URL"}
        } | {
            "OPSCONSOLE_HOME": str(self.home),
            "OPSCONSOLE_PORT": str(self.port),
            "OPSCONSOLE_TIME_SCALE": str(scale),
            "OPSCONSOLE_MIGRATIONS_ROOTS": str(self.home),
        }  # fmt: skip
        self.up: subprocess.Popen | None = None
        self.commands: subprocess.Popen[str] | None = None
        self.opened = ExitStack()

    def start(self) -> None:
        output = self.opened.enter_context((self.home / "up.out").open("ab"))
        self.up = subprocess.Popen(
            [sys.executable, str(ROOT / "manage.py"), "up"],
            env=self.environment,
            stdout=output,
            stderr=output,
            cwd=ROOT,
            start_new_session=True,
        )
        wait_for(self.is_healthy, "the console is not healthy")
        self._end_commands()
        self.commands = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.forking"],
            env=self.environment,
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def _end_commands(self) -> None:
        if self.commands:
            self.commands.kill()
            self.commands.communicate()

    def is_healthy(self) -> bool:
        assert self.up is not None
        assert self.up.poll() is None, (self.home / "up.out").read_text()
        try:
            answer = httpx.get(f"{self.url}/health", timeout=2)
        except httpx.TransportError:
            return False
        return answer.is_success and answer.json()["workers"] >= 2

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> float:
        """SIGTERM; returns the seconds it took."""
        assert self.up is not None
        began = time.monotonic()
        self.up.send_signal(signal.SIGTERM)
        self.up.wait(timeout=60)
        return time.monotonic() - began

    def remove(self) -> None:
        self._end_commands()
        if self.up and self.up.poll() is None:
            self.up.kill()
            self.up.wait()
            with suppress(AssertionError):
                wait_for(lambda: not self.children(), "a process is left", seconds=10)
        self.opened.close()
        shutil.rmtree(self.home, ignore_errors=True)

    # -- what a person would do

    def ops(self, *arguments: str, ok: bool = True) -> object:
        """Run `manage.py ops ... --json`; returns the document."""
        out, err = self.home / "ops.out", self.home / "ops.err"
        order = {"arguments": ["ops", *arguments, "--json"], "stdout": str(out), "stderr": str(err)}
        self.status, self.said = self._order(**order), err.read_text()
        if ok:
            assert self.status in {0, 1}, self.said
        said = out.read_text()
        return json.loads(said) if said.strip() else None

    def _order(self, **order: object) -> int:
        """Give an order to tests.chaos.forking; returns its answer."""
        assert self.commands is not None
        assert self.commands.stdin is not None
        assert self.commands.stdout is not None
        self.commands.stdin.write(json.dumps(order) + "\n")
        self.commands.stdin.flush()
        return int(self.commands.stdout.readline())

    def migrate_to_attention(self) -> dict:
        """Migrate until the run needs a decision; one that got no lock in time is tried again."""
        for _attempt in range(4):
            run = self.ops("migrate", STAGING, "--wait")
            assert isinstance(run, dict)
            if run["status"] == "needs_attention":
                break
            assert "lock timeout" in run["summary"], run
        return run

    def reset(self) -> None:
        """Put staging back; the other environments are not touched by these tests."""
        with self.database() as connection:
            undecided = connection.execute(
                "SELECT id FROM opsconsole_run WHERE status = 'needs_attention'"
            ).fetchall()
        for (run_id,) in undecided:
            self.settle(run_id)
        self.ops("demo", "reset", "staging")
        with self.superuser() as cluster:
            for (name,) in cluster.execute(
                "SELECT datname FROM pg_database WHERE datname LIKE 'sales_commission_staging\\_\\_%'"
            ).fetchall():
                cluster.execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    def settle(self, run_id: int) -> None:
        """Wait for the run's end, and decide it if it asks."""
        if self.wait_ended(run_id) == "needs_attention":
            self.ops("decide", str(run_id), "failed", "--reason", "the next one begins")

    def sign_in(
        self, name: str = "operator", password: str = "", client: httpx.Client | None = None
    ) -> httpx.Client:
        """A signed-in HTTP client; `post(client, path, ...)` adds the CSRF token."""
        password = password or json.loads((self.home / "keys.json").read_text())["demo_password"]
        client = client or httpx.Client(base_url=self.url, timeout=60)
        self.opened.enter_context(client)
        client.get("/sign-in")
        done = self.post(client, "/sign-in", username=name, password=password)
        assert done.status_code == 302, done.text
        return client

    def post(self, client: httpx.Client, path: str, **fields: str) -> httpx.Response:
        (token,) = (c.value for c in client.cookies.jar if c.name.endswith("csrftoken"))
        fields["csrfmiddlewaretoken"] = token
        return client.post(path, data=fields, headers={"Referer": str(client.base_url)})

    # -- what only a tester does

    @contextmanager
    def traffic(self) -> Iterator[None]:
        """`ops demo traffic` on staging, in a process of its own, once its clients write."""
        arguments = ["ops", "demo", "traffic", STAGING, "--clients", CLIENTS]
        out, err = str(self.home / "traffic.out"), str(self.home / "traffic.err")
        number = self._order(arguments=arguments, stdout=out, stderr=err, goes_on=True)
        process = psutil.Process(number)
        try:
            wait_for(self._has_traffic, "no traffic")
            yield
        finally:
            process.send_signal(signal.SIGINT)
            wait_for(lambda: has_ended(process), "traffic goes on")

    def _has_traffic(self) -> bool:
        with self.superuser() as connection:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'traffic-%'"
            ).fetchone()
        return row is not None and row[0] > 0

    def add_migration(self, name: str, text: str) -> None:
        """Put a migration into the demo's folder, after all others; `demo mend` takes it away."""
        folder = self.home / "demo/sales-commission/prisma/migrations" / f"20990101000000_{name}"
        folder.mkdir()
        (folder / "migration.sql").write_text(text)

    def django(self, code: str) -> None:
        """Run a few lines inside the console's own Django, as its shell would."""
        done = subprocess.run(
            [sys.executable, str(ROOT / "manage.py"), "shell", "--verbosity=0", "-c", code],
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr

    def send(self, task: str, object_id: int, queue: str) -> None:
        """Put a message on the broker, as a duplicate delivery would be."""
        code = (
            "import django; django.setup(); from celery import current_app;"
            f"current_app.send_task({task!r}, args=[{object_id}], queue={queue!r})"
        )
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            check=True,
            env=self.environment | {"DJANGO_SETTINGS_MODULE": "opsconsole.project.settings"},
        )

    def database(self) -> psycopg.Connection:
        """A session in the console's own database."""
        addresses = json.loads((self.home / "embedded.json").read_text())
        return psycopg.connect(addresses["database_url"], autocommit=True)

    def superuser(self, database: str = "postgres") -> psycopg.Connection:
        addresses = json.loads((self.home / "embedded.json").read_text())
        return psycopg.connect(addresses["superuser_dsn"], dbname=database, autocommit=True)

    def application_dsn(self, slug: str = "staging") -> str:
        """The address that the demo application itself signs in with."""
        return dsn_of(Home(self.home), find(slug))

    def target(self, slug: str = "staging") -> psycopg.Connection:
        return self.superuser(f"sales_commission_{slug}")

    def run_row(self, run_id: int) -> dict:
        with self.database() as connection:
            row = connection.execute(
                "SELECT to_jsonb(r) FROM opsconsole_run r WHERE id = %s", [run_id]
            ).fetchone()
        assert row is not None
        return row[0]

    def status_of(self, run_id: int) -> str:
        return self.run_row(run_id)["status"]

    def step_of(self, run_id: int) -> str:
        """Name of the step that runs now, or ""."""
        with self.database() as connection:
            row = connection.execute(
                "SELECT name FROM opsconsole_step WHERE run_id = %s AND status = 'running'",
                [run_id],
            ).fetchone()
        return row[0] if row else ""

    def reaches(self, run_id: int, step: str) -> None:
        """Wait until that step runs; fail at once, with the run's own words, if it ended before."""

        def is_there() -> bool:
            if self.step_of(run_id) == step:
                return True
            row = self.run_row(run_id)
            moving = row["status"] in {"queued", "running"}
            assert moving, f"{step} not reached: {row['summary']}\n{self.log_of(run_id)}"
            return False

        try:
            wait_for(is_there, f"{step} not reached")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log_of(run_id)}") from None

    def log_of(self, run_id: int) -> str:
        with self.database() as connection:
            rows = connection.execute(
                "SELECT lines FROM opsconsole_logchunk WHERE run_id = %s ORDER BY first_seq",
                [run_id],
            ).fetchall()
        return "\n".join(line[2] for (lines,) in rows for line in lines)

    def worker(self, queue: str = "runs") -> psutil.Process:
        """The process of the worker for this queue (not its supervisor)."""
        return self.process("celery", queue)

    def process(self, *words: str) -> psutil.Process:
        """The process of this console whose command line holds these words (not its supervisor)."""

        def find() -> psutil.Process | None:
            for process in psutil.process_iter(["cmdline", "environ"]):
                line = " ".join(process.info["cmdline"] or [])
                home = (process.info["environ"] or {}).get("OPSCONSOLE_HOME")
                is_ours = home == str(self.home) or str(self.home) in line
                if is_ours and "supervisor.py" not in line and set(words) <= _words_of(line):
                    return process
            return None

        found = wait_for(find, f"no process {' '.join(words)}")
        assert isinstance(found, psutil.Process)
        return found

    def started(self, *verb: str) -> int:
        """Start a run (by default a migration of staging) and return its number."""
        document = self.ops(*(verb or ("migrate", STAGING)))
        assert isinstance(document, dict), self.said
        return int(document["id"])

    def kill_worker_of(self, run_id: int) -> None:
        """kill -9, then what the promise says: tools dead within 5 s, the run lost in time."""
        self.worker().kill()
        self.loses(run_id)

    def loses(self, run_id: int) -> None:
        """Its worker was killed just now: the tools die and the run is found lost, in time."""
        killed = time.monotonic()
        wait_for(lambda: not self.tools(), "a tool lives on", seconds=5)
        lost_within = max(45 * self.scale, 6)

        def is_lost() -> bool:
            return self.status_of(run_id) not in {"running", "cancelling"}

        wait_for(is_lost, "not lost in time", seconds=lost_within)
        assert time.monotonic() - killed < lost_within + 1

    def tools(self) -> list[psutil.Process]:
        """pg_dump, pg_restore and swap processes that talk to this console's server."""
        found = []
        for process in psutil.process_iter(["cmdline", "name"]):
            line = " ".join(process.info["cmdline"] or [])
            is_tool = process.info["name"] in {"pg_dump", "pg_restore"}
            if is_tool and str(self.home) in line:
                found.append(process)
        return found

    def children(self) -> list[psutil.Process]:
        """Everything alive that belongs to this home."""
        found = []
        for process in psutil.process_iter(["cmdline", "environ"]):
            line = " ".join(process.info["cmdline"] or [])
            home = (process.info["environ"] or {}).get("OPSCONSOLE_HOME", "")
            ours = {os.getpid(), self.commands.pid if self.commands else 0}
            if (str(self.home) in line or home == str(self.home)) and process.pid not in ours:
                found.append(process)
        return found

    def worker_is_back(self) -> None:
        def alive() -> bool:
            with self.database() as connection:
                row = connection.execute(
                    "SELECT 1 FROM opsconsole_worker WHERE name LIKE 'runs@%%'"
                    " AND last_seen_at > now() - interval '3 s'"
                ).fetchone()
            return row is not None

        wait_for(alive, "the worker did not come back")

    def wait_ended(self, run_id: int) -> str:
        moving = {"queued", "running", "cancelling", "lost"}
        wait_for(lambda: self.status_of(run_id) not in moving, f"run {run_id} still moves")
        return self.status_of(run_id)


def _words_of(line: str) -> set[str]:
    return {word.rpartition("/")[2] for word in line.split()}


@contextmanager
def table_lock(connection: psycopg.Connection, table: str, mode: str) -> Iterator[None]:
    """Hold a lock on a table from another session: the fault point stays open."""
    connection.autocommit = True
    connection.execute("BEGIN")
    connection.execute(f"LOCK TABLE {table} IN {mode} MODE")
    try:
        yield
    finally:
        with suppress(psycopg.Error):
            connection.execute("ROLLBACK")


class Sampler:
    """An independent client that asks every 20 ms; outages as (start, seconds)."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._stop = threading.Event()
        self.longest = 0.0
        self.total = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join(timeout=20)

    def _run(self) -> None:
        connection, last, failed = None, time.monotonic(), False
        while not self._stop.is_set():
            try:
                if connection is None:
                    connection = psycopg.connect(self._conninfo, autocommit=True)
                connection.execute("SELECT 1")
            except psycopg.Error:
                connection, failed = None, True
                time.sleep(0.002)
                continue
            now = time.monotonic()
            if failed:
                self.longest = max(self.longest, now - last)
                self.total += now - last
            last, failed = now, False
            time.sleep(0.02)
        if connection:
            connection.close()
