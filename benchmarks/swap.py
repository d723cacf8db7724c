"""How long a restore cuts forty clients off: by swap, and by `pg_restore --clean` in place.

Run as `.venv/bin/python -m benchmarks.swap [MEGABYTES]`. All on the same data in the same run;
prints the longest wait of any client for a write that was due, in milliseconds, and whether Undo is
hash-equal. Beside it the wait where the forty sessions are ended and nothing else is done: forty
clients that sign in again at once keep this machine busy, and no exchange can be shorter than that.

An application's clients run on machines of their own. Here they share the server's cores, so their
role's password is stored with one round of SCRAM instead of 4096: the rounds are the client's work
alone (RFC 5802, section 3: the server keeps the result), 5 ms each, more than all the rest.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from contextlib import contextmanager

from benchmarks import bench

CLIENTS = 40
WARM_UP_SECONDS = 1.5


def hammer(dsn: str) -> None:
    """In a process of its own: forty clients write, read and reconnect until standard input ends.

    Prints the longest wait of any of them for a write and a read that were due, in seconds.
    """
    import psycopg

    stop, waits, begun = threading.Event(), [0.0] * CLIENTS, time.monotonic()

    def act(number: int, connection: psycopg.Connection | None) -> psycopg.Connection | None:
        """Returns the connection once the write and the read were answered."""
        while not stop.is_set():
            try:
                if connection is None or connection.closed:
                    connection = psycopg.connect(dsn, autocommit=True)
                connection.execute("INSERT INTO pings (client) VALUES (%s)", [number])
                found = connection.execute("SELECT 1 FROM filler WHERE id = %s", [number + 1])
                if found.fetchone() is not None:
                    return connection
            except psycopg.Error:
                if connection is not None and connection.broken:
                    connection = None
                time.sleep(0.005)
        return connection

    def write(number: int) -> None:
        connection = None
        while not stop.wait(0.05):
            due = time.monotonic()
            connection = act(number, connection)
            if due - begun > WARM_UP_SECONDS and not stop.is_set():
                waits[number] = max(waits[number], time.monotonic() - due)

    threads = [threading.Thread(target=write, args=[n], daemon=True) for n in range(CLIENTS)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join(timeout=10)
    print(max(waits))


@contextmanager
def clients(dsn: str):
    """Yields a list that holds the longest wait, in seconds, once the block is left."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.swap", "--hammer", dsn],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    time.sleep(2 * WARM_UP_SECONDS)
    longest: list[float] = []
    try:
        yield longest
    finally:
        time.sleep(1)
        longest.append(float(process.communicate()[0]))


def spare_the_clients(role: str) -> None:
    """Store the role's password with one round of SCRAM: see the top of this file."""
    import psycopg
    from django.conf import settings
    from psycopg import sql

    superuser = settings.OPSCONSOLE_HOME.read_addresses().superuser_dsn
    with psycopg.connect(superuser, autocommit=True) as connection:
        connection.execute("SET scram_iterations = 1")
        connection.execute(sql.SQL("ALTER ROLE {} PASSWORD 'pw'").format(sql.Identifier(role)))


def end_sessions(dsn: str) -> None:
    import psycopg

    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def main(megabytes: int) -> None:
    bench.start()
    import psycopg

    from backups_app.models import Backup, ReplacedDatabase
    from backups_app.services import request_backup, request_restore, request_undo
    from opsconsole.targets.content import read_tables
    from opsconsole.targets.tools import find_tools

    environment, actor = bench.make_environment(megabytes), bench.admin()
    spare_the_clients(environment.slug)
    run = bench.execute(
        request_backup(
            actor=actor, target=environment.targets.get(), idempotency_key=uuid.uuid4().hex
        )
    )
    backup = Backup.objects.get(run=run)

    with clients(environment.dsn) as running:
        end_sessions(environment.dsn)
    by_ending = running[0]
    with clients(environment.dsn) as running:
        run = bench.execute(
            request_restore(
                actor=actor,
                backup=backup,
                target=environment.targets.get(),
                idempotency_key=uuid.uuid4().hex,
                typed_name=environment.slug,
            )
        )
    by_swap = running[0]
    replaced = ReplacedDatabase.objects.get(run=run)
    with psycopg.connect(environment.dsn) as connection:
        restored = read_tables(connection)
    with clients(environment.dsn) as running:
        bench.execute(
            request_undo(
                actor=actor,
                replaced=replaced,
                idempotency_key=uuid.uuid4().hex,
                typed_name=environment.slug,
            )
        )
    by_undo = running[0]
    with psycopg.connect(environment.dsn) as connection:
        undone = read_tables(connection)
    kept = ReplacedDatabase.objects.kept().get()
    same = undone["public.filler"] == backup.manifest["content"]["tables"]["public.filler"]
    assert restored["public.pings"]["rows"] < undone["public.pings"]["rows"], kept

    pg_restore = next(t for t in reversed(find_tools()) if t.major == 18).pg_restore
    from django.conf import settings

    archive = f"{settings.BACKUPS_FOLDER}/{backup.key}"
    with clients(environment.dsn) as running:
        began = time.monotonic()
        subprocess.run(
            [
                "sh",
                "-c",
                f"zstd -dc {archive} | {pg_restore} --clean --if-exists -d '{environment.dsn}'",
            ],
            stderr=subprocess.DEVNULL,
        )
        in_place_took = time.monotonic() - began
    in_place = running[0]
    print(f"{megabytes} MB, {CLIENTS} clients; longest wait of any of them")
    print(f"sessions ended only      {by_ending * 1000:10.0f} ms")
    print(f"restore by swap          {by_swap * 1000:10.0f} ms")
    print(f"undo                     {by_undo * 1000:10.0f} ms, hash-equal: {same}")
    print(
        f"pg_restore --clean       {in_place * 1000:10.0f} ms ({in_place_took:.1f} s in all), "
        f"{in_place / by_swap:.0f} times the swap"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--hammer"]:
        hammer(sys.argv[2])
        sys.exit()
    os.environ.setdefault("PYTEST_XDIST_WORKER", "bench")
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
