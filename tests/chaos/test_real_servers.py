"""The same `up` against servers of one's own, as in production, minus the proxy."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator

import psycopg
import pytest

from opsconsole.embedded.postgres import set_role
from opsconsole.embedded.valkey import binary
from tests.chaos.console import ROOT, Console, free_port
from tests.servers import postgres_15

pytestmark = [pytest.mark.chaos, pytest.mark.needs_postgres15]


@pytest.fixture
def servers() -> Iterator[tuple[str, str]]:
    """Debian's PostgreSQL 15 and a Valkey with a port; yields the superuser's DSN and a URL."""
    broker_port = free_port()
    valkey = subprocess.Popen(
        [binary(), "--port", str(broker_port), "--bind", "127.0.0.1", "--save", ""],
        stdout=subprocess.DEVNULL,
        cwd="/tmp",
    )
    try:
        with postgres_15() as server:
            yield server.dsn, f"redis://127.0.0.1:{broker_port}/0"
    finally:
        valkey.kill()
        valkey.wait()


def test_up_on_own_servers_backs_up_a_postgres_15_with_its_own_tools(servers, tmp_path):
    dsn, redis_url = servers
    with psycopg.connect(dsn, autocommit=True) as connection:
        for role in ("console", "shop"):
            set_role(connection, role, "a-password", "LOGIN CREATEDB")
            connection.execute(f"CREATE DATABASE {role} OWNER {role}")
    console = Console()
    console.environment |= {
        "DATABASE_URL": dsn.replace("postgres@", "console:a-password@").replace(
            "/postgres", "/console"
        ),
        "REDIS_URL": redis_url,
        "OPSCONSOLE_HTTPS": "false",
        "SECRET_KEY": "x" * 60,
    }
    shutil.copytree(ROOT / "opsconsole/demo/sales-commission/prisma", console.home / "prisma")
    try:
        console.start()
        said = (console.home / "up.out").read_text()
        assert "starting PostgreSQL" not in said
        password = re.search(r"sign in as admin, password (\S+)", said)[1]
        client = console.sign_in("admin", password)
        console.post(
            client, "/settings/applications/add", name="Shop", slug="shop", engine="prisma"
        )
        answer = console.post(
            client,
            "/settings/applications/1/environments/add",
            name="Staging",
            slug="staging",
            position="1",
            auto_rollback="no_writes",
            settle_seconds="1",
            queue="runs",
            backup_before_migrate="on",
            migrations_folder=str(console.home / "prisma/migrations"),
            address=dsn.replace("postgres@", "shop:a-password@").replace("/postgres", "/shop"),
        )
        assert answer.status_code == 302, answer.text
        run = console.ops("migrate", "shop/staging", "--wait")
        assert (run["status"], len(run["applied"])) == ("succeeded", 13), run["summary"]
        log = console.ops("run", str(run["id"]), "--log")["log"]
        assert any("PostgreSQL 15." in line and "pg_dump 15." in line for line in log)
        assert console.stop() < 30
    finally:
        console.remove()
