"""How long the application waits while a migration meets a table that somebody holds.

Run as `.venv/bin/python -m benchmarks.waiting [ROWS]`. Twenty clients run transactions on a table
of a million rows, and a session holds it for thirty seconds; then a migration adds a column, one
adds an index, one sets NOT NULL: by the console, and the same files by the real Prisma CLI.
Prints the longest transaction of any client, in milliseconds.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import bench

CLIENTS = 20
HELD_SECONDS = 30
FILES = {
    "20260101000000_add_column": 'ALTER TABLE "big" ADD COLUMN "note" TEXT;',
    "20260102000000_add_index": 'CREATE INDEX "big_owner" ON "big"("owner");',
    "20260103000000_set_not_null": 'ALTER TABLE "big" ALTER COLUMN "owner" SET NOT NULL;',
}


def hammer(dsn: str, rows: int) -> None:
    """In a process of its own, until standard input ends; prints the longest transaction (s)."""
    import psycopg

    stop, longest = threading.Event(), [0.0] * CLIENTS

    def work(number: int) -> None:
        with psycopg.connect(dsn) as connection:
            while not stop.wait(0.02):
                began, row = time.monotonic(), random.randint(1, rows)
                with connection.transaction():
                    connection.execute("UPDATE big SET n = n + 1 WHERE id = %s", [row])
                    connection.execute("SELECT n FROM big WHERE id = %s", [row])
                longest[number] = max(longest[number], time.monotonic() - began)

    threads = [threading.Thread(target=work, args=[n]) for n in range(CLIENTS)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()
    print(max(longest))


@contextmanager
def clients(dsn: str, rows: int) -> Iterator[list[float]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.waiting", "--hammer", dsn, str(rows)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    time.sleep(2)
    longest: list[float] = []
    try:
        yield longest
    finally:
        time.sleep(1)
        longest.append(float(process.communicate()[0]))


@contextmanager
def held(dsn: str) -> Iterator[None]:
    """A long report reads the table in one transaction."""
    import psycopg

    with psycopg.connect(dsn) as connection:
        connection.execute("SELECT n FROM big LIMIT 1")
        timer = threading.Timer(HELD_SECONDS, connection.commit)
        timer.start()
        yield
        timer.join()


def make_environment(rows: int):
    import psycopg
    from django.conf import settings

    environment = bench.make_environment(0)
    environment.migrations_folder = str(
        settings.MIGRATIONS_ROOTS[0] / environment.slug / "prisma" / "migrations"
    )
    environment.backup_before_migrate = False
    environment.save()
    Path(environment.migrations_folder).mkdir(parents=True)
    with psycopg.connect(environment.dsn, autocommit=True) as connection:
        connection.execute("DROP TABLE filler, pings")
        add(
            environment,
            "20250101000000_init",
            "CREATE TABLE big (id int PRIMARY KEY, n int NOT NULL, owner int);",
        )
    migrate(environment)
    with psycopg.connect(environment.dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO big SELECT n, 0, n %% 1000 FROM generate_series(1, %s) n", [rows]
        )
        connection.execute("VACUUM ANALYZE big")
    return environment


def add(environment, name: str, text: str) -> None:
    script = Path(environment.migrations_folder) / name / "migration.sql"
    script.parent.mkdir()
    script.write_text(text + "\n")


def migrate(environment) -> None:
    from migrations_app.reading.observation import observe_target
    from migrations_app.services.migrations import current_plan, request_migrate
    from opsconsole.environments.models import Environment

    environment = Environment.objects.select_related("application").get(pk=environment.pk)
    observe_target(environment.targets.get())
    plan, _state = current_plan(environment.targets.get())
    run = request_migrate(
        actor=bench.admin(),
        target=environment.targets.get(),
        plan_hash=plan.hash,
        idempotency_key=uuid.uuid4().hex,
    )
    bench.execute(run)


def deploy(environment) -> None:
    root = Path(environment.migrations_folder).parents[1]
    said = bench.prisma(root, environment, "migrate", "deploy")
    assert "successfully applied" in said, said


def measure(environment, rows: int, name: str, apply: Callable) -> float:
    add(environment, name, FILES[name])
    with clients(environment.dsn, rows) as longest, held(environment.dsn):
        apply(environment)
    return longest[0]


def main(rows: int) -> None:
    bench.start()
    by_console, by_prisma = make_environment(rows), make_environment(rows)
    limit = by_console.blocking_limit_seconds
    print(
        f"{rows:,} rows, {CLIENTS} clients, held for {HELD_SECONDS} s; longest transaction of any "
        f"client (the policy's limit: {limit * 1000:,.0f} ms)"
    )
    for name in FILES:
        ours = measure(by_console, rows, name, migrate)
        theirs = measure(by_prisma, rows, name, deploy)
        print(
            f"{name[15:]:16} console {ours * 1000:8,.0f} ms   prisma migrate deploy "
            f"{theirs * 1000:8,.0f} ms"
        )
        assert ours < limit, "a client waited longer than the policy's limit"


if __name__ == "__main__":
    os.environ.setdefault("PYTEST_XDIST_WORKER", "bench")
    if sys.argv[1:2] == ["--hammer"]:
        hammer(sys.argv[2], int(sys.argv[3]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
