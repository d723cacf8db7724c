"""An address through a pooler is refused, and nothing is left on the application's sessions."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from opsconsole.exceptions import AdapterError
from opsconsole.targets.dsn import Dsn
from opsconsole.targets.server import POOLED, connect, read_facts
from tests.chaos.console import free_port, wait_for
from tests.servers import postgres_15

pytestmark = [pytest.mark.needs_pgbouncer, pytest.mark.needs_postgres15]
SETTINGS = "SELECT name, setting FROM pg_settings WHERE name <> 'application_name' ORDER BY name"


@pytest.fixture(scope="module", params=["transaction", "session"])
def pooled(request: pytest.FixtureRequest) -> Iterator[str]:
    """An address of a PostgreSQL 15 through a PgBouncer that keeps one session to it."""
    with postgres_15() as server:
        port = free_port()
        ini = Path(server.folder) / "pgbouncer.ini"
        ini.write_text(
            f"[databases]\npostgres = host={server.folder} port={server.port}\n[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"pool_mode = {request.param}\nauth_type = trust\nserver_reset_query =\n"
            f"auth_file = {ini.with_name('users.txt')}\n"
            "default_pool_size = 1\nignore_startup_parameters = extra_float_digits\n"
        )
        ini.with_name("users.txt").write_text('"postgres" ""\n')
        os.chmod(ini, 0o644)
        process = subprocess.Popen(
            ["/usr/sbin/pgbouncer", "-q", str(ini)], cwd="/", **server.account
        )
        address = f"postgresql://postgres@127.0.0.1:{port}/postgres"

        def answers() -> bool:
            try:
                psycopg.connect(address).close()
            except psycopg.OperationalError:
                return False
            return True

        try:
            wait_for(answers, "the pooler does not answer", seconds=20)
            yield address
        finally:
            process.kill()
            process.wait()


def settings_of_the_application(address: str) -> list[tuple[str, str]]:
    with psycopg.connect(address, autocommit=True, prepare_threshold=None) as session:
        return session.execute(SETTINGS).fetchall()


def test_what_answers_through_a_pooler_is_not_called_direct(pooled: str) -> None:
    direct = Dsn.parse(f"{pooled}?pgbouncer=false")
    with connect(direct, application_name="opsconsole:x") as session:
        assert not read_facts(session).is_direct


def test_proxy_that_keeps_sessions_apart_is_taken_where_the_address_says_so(pooled: str) -> None:
    direct = Dsn.parse(f"{pooled}?pgbouncer=false")
    with connect(direct, application_name="opsconsole:x") as session:
        assert session.execute("SELECT 1").fetchone() == (1,)


def test_pooler_is_refused_and_the_session_behind_it_is_as_it_was(pooled: str) -> None:
    before = settings_of_the_application(pooled)
    for autocommit in (True, False):
        with pytest.raises(AdapterError) as refused:
            connect(Dsn.parse(pooled), application_name="opsconsole:x", autocommit=autocommit)
        assert str(refused.value) == POOLED
    assert settings_of_the_application(pooled) == before
