"""kill -9 of pg_dump, of pg_restore and of the target's own server in the middle of the work."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from django.conf import settings

from backups_app import services
from backups_app.choices import ProofLevel
from backups_app.models import Backup, ReplacedDatabase, Storage
from backups_app.services import storages
from opsconsole.embedded.postgres import set_role
from opsconsole.environments.models import Environment
from opsconsole.environments.secrets import seal
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.models import Run
from opsconsole.runs.recorder import Recorder
from tests.backups_app.conftest import restore
from tests.s3 import scripted_s3
from tests.servers import Server, postgres_15
from tests.worker import execute_run, resolve_lost_run

pytestmark = [pytest.mark.usefixtures("transactional_db"), pytest.mark.needs_postgres15]


@pytest.fixture
def server() -> Iterator[Server]:
    with postgres_15() as running:
        yield running


@pytest.fixture
def on_own_server(environment, server) -> Environment:
    """The environment on a cluster that may be killed, with a few MB in it."""
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        set_role(connection, "shop", "pw", "LOGIN CREATEDB")
        connection.execute("CREATE DATABASE shop OWNER shop")
    environment.dsn = server.dsn.replace("postgres@", "shop:pw@").replace("/postgres", "/shop")
    environment.targets.update(dsn_encrypted=seal(environment.dsn))
    with psycopg.connect(environment.dsn, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE big AS SELECT n, repeat(md5(n::text), 4) t FROM generate_series(1, 40000) n"
        )
        connection.execute("CREATE TABLE targets (amount numeric)")
    return environment


@pytest.fixture
def when_logged(monkeypatch) -> Callable:
    """`when_logged("backup: pg_dump", act)` acts once, soon after a line with that text."""

    def arm(text: str, act: Callable[[], None], after: float = 0.0) -> None:
        original, armed = Recorder.log, [True]

        def log(self, line: str, tone: str = "") -> None:
            original(self, line, tone)
            if armed and text in line:
                armed.clear()
                threading.Timer(after, act).start()

        monkeypatch.setattr(Recorder, "log", log)

    return arm


def kill_tool(name: str) -> Callable[[], None]:
    """Kill the tool of that name that belongs to this process, as soon as it is there."""

    def kill() -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            for child in psutil.Process().children(recursive=True):
                try:
                    if child.name() == name:
                        child.kill()
                        return
                except psutil.NoSuchProcess:
                    continue
            time.sleep(0.001)

    return kill


def left_behind(environment: Environment) -> tuple[list[str], list[str]]:
    """Scratch databases on the server, and archives in the backups folder that no row lists."""
    with psycopg.connect(environment.dsn) as connection:
        scratch = [
            row[0]
            for row in connection.execute(
                "SELECT datname FROM pg_database WHERE datname ~ '^shop__(proof|new)'"
            )
        ]
    listed = set(Backup.objects.values_list("key", flat=True))
    folder = Path(settings.BACKUPS_FOLDER) / environment.path
    found = [str(p.relative_to(settings.BACKUPS_FOLDER)) for p in folder.rglob("*") if p.is_file()]
    return scratch, [f for f in found if not any(f.startswith(key) for key in listed)]


def lose_and_resolve(run: Run) -> Run:
    """What the reaper and the resolver do, should the run have stayed claimed."""
    run.refresh_from_db()
    if run.status in RunStatus.active():
        Run.objects.filter(pk=run.pk).update(status=RunStatus.LOST, claim_token=uuid.uuid4())
    for _attempt in range(20):
        run.refresh_from_db()
        if run.status != RunStatus.LOST:
            return run
        resolve_lost_run(run.pk)
        time.sleep(0.2)
    return run


@pytest.mark.parametrize(
    ("line", "tool", "listed"),
    [("backup: pg_dump", "pg_dump", 0), ("to prove it", "pg_restore", 1)],
)
def test_killed_tool_fails_the_backup_and_leaves_no_half(
    on_own_server, run_backup, when_logged, line, tool, listed
):
    when_logged(line, kill_tool(tool))
    run = run_backup()
    assert run.status == RunStatus.FAILED, run.summary
    assert tool in run.summary
    assert left_behind(on_own_server) == ([], [])
    assert Backup.objects.count() == listed
    assert not Backup.objects.proven().exists()


def test_killed_pg_restore_fails_the_restore_and_replaces_nothing(
    on_own_server, run_backup, operator, when_logged
):
    backup = Backup.objects.get(run=run_backup())
    when_logged("beside the live database", kill_tool("pg_restore"))
    run = restore(operator, backup, on_own_server)
    assert run.status == RunStatus.FAILED
    assert run.summary.endswith("The live database was not touched.")
    assert left_behind(on_own_server) == ([], [])
    assert not ReplacedDatabase.objects.exclude(swapped_at=None).exists()


@pytest.mark.parametrize(
    "line", ["preflight:", "backup: pg_dump", "counting and hashing", "to prove it"]
)
def test_killed_server_fails_the_backup_and_leaves_no_half(
    on_own_server, run_backup, server, when_logged, line
):
    when_logged(line, server.kill)
    run = run_backup()
    if server.process.poll() is None:
        server.kill()
    server.start()
    run = lose_and_resolve(run)
    assert run.status in {RunStatus.FAILED, RunStatus.SUCCEEDED}, run.summary
    _scratch, orphans = left_behind(on_own_server)
    assert orphans == []
    assert Backup.objects.proven().count() == (1 if run.status == RunStatus.SUCCEEDED else 0)
    again = run_backup()
    assert again.status == RunStatus.SUCCEEDED, again.summary


@pytest.mark.parametrize(
    "line",
    [
        "preflight:",
        "beside the live database",
        "content equal",
        "swap: closing",
        "swap: closed",
        "swap: ended",
        "swap: renamed",
    ],
)
def test_killed_server_during_a_restore_leaves_one_of_two_whole_databases(
    on_own_server, run_backup, operator, server, when_logged, line
):
    backup = Backup.objects.get(run=run_backup())
    with psycopg.connect(on_own_server.dsn, autocommit=True) as connection:
        connection.execute("DELETE FROM big WHERE n > 100")
    made = services.request_restore(
        actor=operator,
        backup=backup,
        target=on_own_server.targets.get(),
        typed_name="staging",
        idempotency_key=uuid.uuid4().hex,
    )

    def kill_and_start() -> None:
        server.kill()
        server.start()

    when_logged(line, kill_and_start)
    execute_run(made.pk, "w")
    time.sleep(1)
    run = lose_and_resolve(made)

    assert run.status in {RunStatus.FAILED, RunStatus.SUCCEEDED, RunStatus.NEEDS_ATTENTION}
    happened = ReplacedDatabase.objects.exclude(swapped_at=None).exists()
    with psycopg.connect(on_own_server.dsn) as connection:
        rows = connection.execute("SELECT count(*) FROM big").fetchone()
        closed = connection.execute(
            "SELECT count(*) FROM pg_database WHERE NOT datallowconn AND datname = 'shop'"
        ).fetchone()
    assert rows == ((40000,) if happened else (100,))
    assert closed == (0,)
    if run.status == RunStatus.SUCCEEDED:
        assert happened


def test_bucket_that_vanishes_during_the_dump_leaves_no_backup(
    on_own_server, run_backup, set_policy, admin, when_logged
):
    with scripted_s3() as s3:
        bucket = storages.save_storage(
            actor=admin,
            storage=Storage(name="B", url=s3.url, access_key="k", is_shared=True),
            before={},
            secret="s",
        )
        set_policy(storage=bucket)

        def vanish() -> None:
            s3.code[404] = "NoSuchBucket"
            s3.script = lambda *_: 404

        when_logged("backup: pg_dump", vanish)
        run = run_backup()
    assert run.status == RunStatus.FAILED
    assert "404 Not Found (NoSuchBucket" in run.summary
    assert not Backup.objects.exists()


def test_backup_that_was_not_proven_stays_listed_as_such(on_own_server, run_backup, when_logged):
    when_logged("to prove it", kill_tool("pg_restore"))
    backup = Backup.objects.get(run=run_backup())
    assert backup.proof == ProofLevel.CHECKSUM
