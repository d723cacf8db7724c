"""The console's own database comes and goes during a run: it ends by itself, with every line."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
import psycopg
import pytest

from opsconsole.embedded.postgres import set_role
from tests.chaos.console import Console, wait_for
from tests.servers import postgres_15

pytestmark = pytest.mark.chaos
CUT_SECONDS = 0.7
LINES = 200_000


def notices(count: int, *, a_pause: int) -> str:
    """SQL that raises so many numbered notices, and sleeps 2 ms after each `a_pause` of them."""
    return (
        f"DO $$ BEGIN FOR n IN 1..{count} LOOP RAISE NOTICE 'line %', n;"
        f" IF n % {a_pause} = 0 THEN PERFORM pg_sleep(0.002); END IF; END LOOP; END $$;\n"
    )


def numbers(console: Console, run_id: int) -> list[int]:
    """The numbers of the notices in the log, in the order in which they stand there."""
    said = console.log_of(run_id).splitlines()
    return [int(line.split()[3]) for line in said if "NOTICE 00000: line " in line]


def events(console: Console, run_id: int) -> list[str]:
    with console.database() as connection:
        rows = connection.execute(
            "SELECT action FROM opsconsole_auditevent WHERE run_id = %s ORDER BY id", [run_id]
        ).fetchall()
    return [row[0] for row in rows]


@contextmanager
def cutting(console: Console) -> Iterator[list[int]]:
    """End the console's own sessions again and again; the list has how many, each time."""
    done, ended = threading.Event(), []

    def cut() -> None:
        while not done.wait(CUT_SECONDS):
            # Away itself for a moment.
            with suppress(psycopg.OperationalError), console.superuser() as other:
                row = other.execute(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                    " WHERE application_name = 'opsconsole' AND datname = 'opsconsole'"
                ).fetchone()
                ended.append(row[0])

    thread = threading.Thread(target=cut)
    thread.start()
    try:
        yield ended
    finally:
        done.set()
        thread.join()


def test_run_whose_console_sessions_are_cut_loses_no_line_and_ends_by_itself(demo: Console) -> None:
    demo.add_migration("loud", notices(4000, a_pause=1))
    try:
        run_id = demo.started()
        demo.reaches(run_id, "migrate")
        with cutting(demo) as ended:
            status = demo.wait_ended(run_id)
    finally:
        demo.ops("demo", "mend")
    assert status == "succeeded", demo.run_row(run_id)["summary"]
    assert numbers(demo, run_id) == list(range(1, 4001))
    assert events(demo, run_id) == ["run.requested", "run.started", "run.ended"]
    assert len(ended) > 5
    assert all(ended)


def postmaster(console: Console) -> int:
    """The process of the console's PostgreSQL; 0 while it does not answer."""
    with suppress(psycopg.OperationalError), console.superuser() as connection:
        return psutil.Process(connection.info.backend_pid).ppid()
    return 0


def restart_database(console: Console, how: signal.Signals) -> float:
    """Stop the console's PostgreSQL, as a restart does; the seconds until another one answers."""
    began, stopped = time.monotonic(), postmaster(console)
    os.kill(stopped, how)
    wait_for(lambda: postmaster(console) not in {0, stopped}, "PostgreSQL did not come back")
    return time.monotonic() - began


def add_shop(console: Console, dsn: str) -> None:
    """An environment shop/staging on a server of its own, with one migration to apply."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        set_role(connection, "shop", "a-password", "LOGIN CREATEDB")
        connection.execute("CREATE DATABASE shop OWNER shop")
    folder = console.home / "prisma/migrations"
    (folder / "20250101000000_loud").mkdir(parents=True)
    text = "CREATE TABLE teams (id int);\n" + notices(LINES, a_pause=10)
    (folder / "20250101000000_loud/migration.sql").write_text(text)
    address = dsn.replace("postgres@", "shop:a-password@").replace("/postgres", "/shop")
    console.django(
        "from opsconsole.environments.models import Application, Environment, Target\n"
        "from opsconsole.environments.secrets import seal\n"
        "shop = Application.objects.create(name='Shop', slug='shop', engine='prisma')\n"
        "staging = Environment.objects.create(application=shop, name='Staging', slug='staging',"
        f" settle_seconds=1, migrations_folder={str(folder)!r})\n"
        f"Target.objects.create(environment=staging, dsn_encrypted=seal({address!r}))\n"
    )


@pytest.mark.long
@pytest.mark.needs_postgres15
@pytest.mark.timeout(900)
def test_long_run_survives_cuts_and_restarts_of_the_console_s_database() -> None:
    console, began, restarts = Console(scale=1), time.monotonic(), []
    try:
        with postgres_15() as server:
            console.start()
            add_shop(console, server.dsn)
            run_id = console.started("migrate", "shop/staging")
            console.reaches(run_id, "migrate")
            with cutting(console) as ended:
                # The second one with `-m immediate`: it has to recover.
                for how in (signal.SIGINT, signal.SIGQUIT):
                    time.sleep(12)
                    assert console.step_of(run_id) == "migrate"
                    restarts.append(restart_database(console, how))
                status = console.wait_ended(run_id)
            found, row = numbers(console, run_id), console.run_row(run_id)
            print(
                f"\n{len(found):,} of {LINES:,} lines, {len(set(found)):,} different;"
                f" {len(ended)} cuts of {sum(ended)} sessions,"
                f" {len(restarts)} restarts of {', '.join(f'{s:.1f} s' for s in restarts)};"
                f" {row['started_at']} to {row['finished_at']}, {status}: {row['summary']}"
                f" {events(console, run_id)}; {time.monotonic() - began:.0f} s in all"
            )
    finally:
        console.remove()
    assert status == "succeeded"
    assert found == list(range(1, LINES + 1))
