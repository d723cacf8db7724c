"""A password planted as a marker is found nowhere but encrypted."""

from __future__ import annotations

import threading
from contextlib import suppress

import psutil
import psycopg
import pytest

from opsconsole.embedded.postgres import set_role
from tests.chaos.console import STAGING, Console

pytestmark = pytest.mark.chaos
MARKER = "PlantedMarker7Zq"


def watch_arguments(found: set[str], stop: threading.Event) -> None:
    while not stop.wait(0.02):
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if any(MARKER in part for part in process.cmdline()):
                    found.add(" ".join(process.cmdline()))


def plant(console: Console) -> None:
    """Give staging's role the marker as its password, and the console its new address, by its page."""
    role = "sales_commission_staging"
    with console.superuser() as connection:
        set_role(connection, role, MARKER, "LOGIN CREATEDB")
        host = connection.info.host
    client = console.sign_in("admin")
    page = "/settings/applications/1/environments/2"
    fields = {
        "name": "Staging", "slug": "staging", "position": "2", "auto_rollback": "no_writes",
        "settle_seconds": "2", "queue": "runs", "backup_before_migrate": "on",
        "migrations_folder": str(console.home / "demo/sales-commission/prisma/migrations"),
        "address": f"postgresql://{role}:{MARKER}@/{role}?host={host}",
    }  # fmt: skip
    answer = console.post(client, page, **fields)
    assert answer.status_code == 302, answer.text
    refused = console.post(client, page, **fields | {"slug": "not ok"})
    assert (refused.status_code, MARKER in refused.text) == (422, False)


def test_planted_password_is_found_nowhere(console: Console) -> None:
    console.reset()
    plant(console)
    seen: set[str] = set()
    stop = threading.Event()
    watcher = threading.Thread(target=watch_arguments, args=[seen, stop])
    watcher.start()
    console.ops("demo", "break-sql")
    run = console.ops("migrate", STAGING, "--wait")
    # The demo's application has the old password: its health fails with what landed.
    console.ops("decide", str(run["id"]), "failed", "--reason", "seen")  # type: ignore[index]
    console.ops("backup", STAGING, "--wait")
    console.ops("restore", str(run["backup"]), "--to", STAGING, "--confirm", "staging", "--wait")  # type: ignore[index]
    with console.superuser() as connection:
        set_role(connection, "sales_commission_staging", "another", "LOGIN")
    console.ops("pending", STAGING, ok=False)
    assert console.status == 2
    stop.set()
    watcher.join()

    assert seen == set()
    with console.database() as connection:
        tables = [
            row[0]
            for row in connection.execute(
                "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'"
            )
        ]
        held = [
            table
            for table in tables
            if connection.execute(
                psycopg.sql.SQL("SELECT 1 FROM {} t WHERE t::text LIKE {} LIMIT 1").format(
                    psycopg.sql.SQL(table), psycopg.sql.Literal(f"%{MARKER}%")
                )
            ).fetchone()
        ]
    assert held == []
    files = [
        str(path)
        for path in console.home.rglob("*")
        if path.is_file() and MARKER.encode() in path.read_bytes()
    ]
    assert files == []
    client = console.sign_in("admin")
    for path in ("/audit.csv", f"/runs/{run['id']}", f"/runs/{run['id']}/log.txt", "/settings"):  # type: ignore[index]
        assert MARKER not in client.get(path).text
