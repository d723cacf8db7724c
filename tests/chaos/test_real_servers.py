"""The same `up` against servers of one's own, as in production, behind HTTPS."""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg
import pytest

from opsconsole.embedded.postgres import set_role
from opsconsole.embedded.valkey import binary
from tests.chaos.console import ROOT, Console, free_port, wait_for
from tests.https import https_in_front_of, write_certificate
from tests.servers import postgres_15

pytestmark = [pytest.mark.chaos, pytest.mark.needs_postgres15]


@dataclass(frozen=True)
class Servers:
    console_dsn: str
    target_dsn: str
    redis_url: str


@pytest.fixture
def servers() -> Iterator[Servers]:
    """Two PostgreSQL 15 of Debian's and a Valkey with a port; the DSNs are superusers'."""
    broker_port = free_port()
    valkey = subprocess.Popen(
        [binary(), "--port", str(broker_port), "--bind", "127.0.0.1", "--save", ""],
        stdout=subprocess.DEVNULL,
        cwd="/tmp",
    )
    try:
        with postgres_15() as own, postgres_15() as target:
            yield Servers(own.dsn, target.dsn, f"redis://127.0.0.1:{broker_port}/0")
    finally:
        valkey.kill()
        valkey.wait()


def add_database(superuser_dsn: str, name: str) -> str:
    """A database and its owner of the same name; returns the owner's address."""
    with psycopg.connect(superuser_dsn, autocommit=True) as connection:
        set_role(connection, name, "a-password", "LOGIN CREATEDB")
        connection.execute(f"CREATE DATABASE {name} OWNER {name}")
    return superuser_dsn.replace("postgres@", f"{name}:a-password@").replace(
        "/postgres", f"/{name}"
    )


@pytest.fixture
def console(servers: Servers) -> Iterator[Console]:
    """A console in production mode, its database on another server than its target's."""
    console = Console()
    console.environment |= {
        "DATABASE_URL": add_database(servers.console_dsn, "console"),
        "REDIS_URL": servers.redis_url,
        "SECRET_KEY": "x" * 60,
        "OPSCONSOLE_TRUSTED_PROXIES": "127.0.0.1",
    }
    try:
        console.start()
        yield console
    finally:
        console.remove()


def test_up_on_own_servers_behind_https_restores_a_postgres_15_with_its_own_tools(
    console: Console, servers: Servers, tmp_path: Path
) -> None:
    said = (console.home / "up.out").read_text()
    assert "starting PostgreSQL" not in said
    password = re.search(r"sign in as admin, password (\S+)", said)[1]
    certificate = tmp_path / "certificate.pem"
    write_certificate(certificate)
    with https_in_front_of(console.url, certificate) as url:
        trusting = httpx.Client(
            base_url=url, timeout=60, verify=ssl.create_default_context(cafile=certificate)
        )
        client = console.sign_in("admin", password, trusting)
        assert {(c.name, c.secure) for c in client.cookies.jar} == {
            ("__Host-csrftoken", True),
            ("__Host-sessionid", True),
            ("__Host-known_device_1", True),
        }  # fmt: skip
        home = client.get("/")
        assert home.headers["strict-transport-security"].startswith("max-age=31536000")
        plain = httpx.get(f"{console.url}/settings", headers={"Host": "127.0.0.1"})
        assert (plain.status_code, plain.headers["location"]) == (
            301, "https://127.0.0.1/settings"
        )  # fmt: skip
        # As from a proxy before this one, which is named too.
        client.headers["X-Forwarded-For"] = "203.0.113.7"
        add_shop(console, client, add_database(servers.target_dsn, "shop"))
    with psycopg.connect(console.environment["DATABASE_URL"]) as own:
        acts = own.execute(
            "SELECT action, host(ip) FROM opsconsole_auditevent"
            " WHERE action LIKE '%.created' OR action LIKE '%.added' ORDER BY id"
        ).fetchall()
    assert acts == [("application.added", "203.0.113.7"), ("environment.added", "203.0.113.7")]
    run = console.ops("migrate", "shop/staging", "--wait")
    assert (run["status"], len(run["applied"])) == ("succeeded", 13), run["summary"]
    log = console.ops("run", str(run["id"]), "--log")["log"]
    assert any("PostgreSQL 15." in line and "pg_dump 15." in line for line in log)
    taken = console.ops("backup", "shop/staging", "--wait")
    restored = console.ops(
        "restore", str(taken["backup"]), "--to", "shop/staging", "--confirm", "staging", "--wait"
    )
    assert restored["status"] == "succeeded", restored["summary"]
    assert console.stop() < 30


def add_shop(console: Console, client: httpx.Client, address: str) -> None:
    shutil.copytree(ROOT / "opsconsole/demo/sales-commission/prisma", console.home / "prisma")
    source = str(console.home / "prisma/migrations")
    page = tried(console, client, "/settings/applications/add", source=source)
    console.post(client, f"{page}/save", name="Shop", folder="0")
    fields = {
        "position": "1", "auto_rollback": "no_writes", "settle_seconds": "1", "queue": "runs",
        "name": "Staging", "backup_before_migrate": "on", "address": address,
    }  # fmt: skip
    page = tried(console, client, "/settings/applications/1/environments/add", **fields)
    answer = console.post(client, f"{page}/save")
    assert answer.status_code == 302, answer.text


def tried(console: Console, client: httpx.Client, path: str, **fields: str) -> str:
    """The page of the draft that is made of the fields, once a worker has tried it."""
    answer = console.post(client, path, **fields)
    assert answer.status_code == 302, answer.text
    page = answer.headers["location"]
    wait_for(lambda: f"{page}/save" in client.get(page).text, "it is not tried")
    return page
