"""Fixtures: people, a target database of one's own, and a console that runs as `up` runs it."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.test import Client
from django.urls import reverse
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis
from psycopg import sql
from xdist.scheduler import LoadFileScheduling

from tests.toolbox import MISSING

PASSWORD = "target-password"

# How long an example takes says how busy the machine is, and nothing of the console.
hypothesis.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis.load_profile("any machine")


# Tests of these folders and files start programs; those of these fixtures have databases of their own.
STARTS_PROGRAMS = (
    "chaos",
    "e2e",
    "upgrade",
    "processes",
    "backups_app/test_stores.py",
    "migrations_app/test_git.py",
    "migrations_app/test_sources.py",
    "test_outgoing_calls.py",
)
# What takes the longest begins first.
LONGEST = "tests/chaos/"
TAKES_LONG = {"database", "transactional_db", "bucket", "server"}


class ByFileAndOneConsole(LoadFileScheduling):
    """Each process of the tests takes file after file, and one of them all that kill a console.

    More than one console at a time would each be slower than what is promised of it.
    """

    def _split_scope(self, nodeid: str) -> str:
        return LONGEST if nodeid.startswith(LONGEST) else str(super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFileAndOneConsole:
    return ByFileAndOneConsole(config, log)


def pytest_itemcollected(item: pytest.Item) -> None:
    for marker, (find, why) in MISSING.items():
        if item.get_closest_marker(marker) and not find():
            item.add_marker(pytest.mark.skip(reason=why))
    if item.get_closest_marker("long") and not os.environ.get("OPSCONSOLE_TEST_LONG"):
        item.add_marker(pytest.mark.skip(reason="by hand, with OPSCONSOLE_TEST_LONG=1"))
    if _is_fast(item):
        item.add_marker(pytest.mark.fast)


# After pytest-django, which sorts by what tests do with the database.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


def _is_fast(item: pytest.Item) -> bool:
    """Whether the test takes nothing but the console's own database, in one transaction."""
    django_db = item.get_closest_marker("django_db")
    return not (
        item.path.relative_to(Path(__file__).parent).as_posix().startswith(STARTS_PROGRAMS)
        or TAKES_LONG.intersection(getattr(item, "fixturenames", ()))
        or (django_db and django_db.kwargs.get("transaction"))
        or any(item.get_closest_marker(marker) for marker in MISSING)
    )


@pytest.fixture(scope="session", autouse=True)
def _flush_may_empty_the_audit_trail() -> Iterator[None]:
    """Between tests the table's owner lifts the trigger that refuses TRUNCATE, and sets it again."""
    from django.db.backends.base.operations import BaseDatabaseOperations as Operations

    original = Operations.execute_sql_flush

    def flush(self, sql_list: list[str]) -> None:
        alter = "ALTER TABLE opsconsole_auditevent {} TRIGGER audit_no_truncate"
        original(self, [alter.format("DISABLE"), *sql_list, alter.format("ENABLE ALWAYS")])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Operations, "execute_sql_flush", flush)
        yield


@pytest.fixture(autouse=True)
def _plain_settings(settings) -> None:
    settings.STORAGES = {
        "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    }
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    # As in production: a machine that stands still for some seconds loses no run of a test.
    settings.LEASE_SECONDS = 30


@pytest.fixture(autouse=True)
def _not_a_worker(monkeypatch) -> None:
    """A test is the web process, and so is the next one when a command here became a worker."""
    from opsconsole.environments import secrets

    monkeypatch.setattr(secrets, "_may_open", False)


@pytest.fixture
def person(db) -> Callable:
    """`person("operator")` makes a user with that role everywhere."""
    from opsconsole.access.models import Membership, User

    def make(role: str, name: str = "") -> User:
        user = User.objects.create_user(name or role, password="pw")
        Membership.objects.create(user=user, role=role)
        return user

    return make


@pytest.fixture
def operator(person):
    return person("operator")


@pytest.fixture
def admin(person):
    return person("admin")


def superuser(database: str = "postgres") -> psycopg.Connection:
    from django.conf import settings

    dsn = settings.OPSCONSOLE_HOME.read_addresses().superuser_dsn
    return psycopg.connect(dsn, dbname=database, autocommit=True)


def dsn_for(database: str, role: str) -> str:
    from django.conf import settings

    host = settings.OPSCONSOLE_HOME.read_addresses().superuser_dsn.split("host=")[1]
    return f"postgresql://{role}:{PASSWORD}@/{database}?host={host}"


SCHEMA = """
CREATE TABLE users (id serial PRIMARY KEY, name text NOT NULL);
CREATE TABLE targets (id serial PRIMARY KEY, user_id int REFERENCES users, amount numeric(14,2));
INSERT INTO users (name) SELECT 'user ' || n FROM generate_series(1, 200) n;
INSERT INTO targets (user_id, amount) SELECT 1 + n % 200, n FROM generate_series(1, 1000) n;
"""


@pytest.fixture
def database() -> Iterator[Callable[[], str]]:
    """`database()` makes an empty database with an owner that is no superuser; returns its DSN."""
    made: list[str] = []

    def make(name: str = "") -> str:
        from opsconsole.embedded.postgres import set_role

        name = name or f"t{uuid.uuid4().hex[:10]}"
        with superuser() as connection:
            set_role(connection, name, PASSWORD, "LOGIN CREATEDB")
            connection.execute(
                sql.SQL("CREATE DATABASE {0} OWNER {0}").format(sql.Identifier(name))
            )
        made.append(name)
        return dsn_for(name, name)

    yield make
    with superuser() as connection:
        for role in made:
            owned = connection.execute(
                "SELECT datname FROM pg_database WHERE pg_get_userbyid(datdba) = %s", [role]
            ).fetchall()
            for (name,) in owned:
                connection.execute(
                    sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
                )
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


@contextmanager
def autovacuum_at_work(dsn: str) -> Iterator[None]:
    """While autovacuum works, slowly, on a table of that database."""
    with superuser() as cluster, psycopg.connect(dsn, autocommit=True) as connection:
        cluster.execute("ALTER SYSTEM SET autovacuum_naptime = 1")
        cluster.execute("SELECT pg_reload_conf()")
        connection.execute(
            "CREATE TABLE vacuumed (n int) WITH (autovacuum_vacuum_cost_delay = 100,"
            " autovacuum_vacuum_cost_limit = 1, autovacuum_vacuum_threshold = 1,"
            " autovacuum_vacuum_scale_factor = 0)"
        )
        connection.execute("INSERT INTO vacuumed SELECT generate_series(1, 300000)")
        connection.execute("DELETE FROM vacuumed WHERE n % 2 = 0")
        at_work = (
            "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'autovacuum worker'"
            " AND datname = %s AND query LIKE '%%vacuumed%%'"
        )
        deadline = time.monotonic() + 60
        while not cluster.execute(at_work, [connection.info.dbname]).fetchone():
            assert time.monotonic() < deadline, "autovacuum did not come"
            time.sleep(0.05)
        connection.close()
        try:
            yield
        finally:
            cluster.execute("ALTER SYSTEM RESET autovacuum_naptime")
            cluster.execute("SELECT pg_reload_conf()")


class Folder:
    """A Prisma migrations folder that a test writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)

    def add(self, name: str, text: str) -> Path:
        file = self.path / name / "migration.sql"
        file.parent.mkdir()
        file.write_bytes(text.encode())
        return file


@pytest.fixture
def folder(settings) -> Iterator[Folder]:
    root = settings.MIGRATIONS_ROOTS[0] / f"m{uuid.uuid4().hex[:8]}"
    yield Folder(root / "prisma" / "migrations")
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def make_environment(db, database, folder) -> Callable:
    """`make_environment("staging")` makes an environment on a database with one migration applied."""
    from opsconsole.environments.models import Application, Environment, Target
    from opsconsole.environments.secrets import seal
    from opsconsole.health.models import HealthCheck

    def make(slug: str = "staging", *, position: int = 1, **fields) -> Environment:
        application, _ = Application.objects.get_or_create(slug="shop", defaults={"name": "Shop"})
        environment = Environment.objects.create(
            application=application,
            slug=slug,
            name=slug.capitalize(),
            position=position,
            migrations_folder=str(folder.path),
            settle_seconds=1,
            **fields,
        )
        dsn = database()
        Target.objects.create(environment=environment, dsn_encrypted=seal(dsn))
        environment.dsn = dsn
        HealthCheck.objects.create(
            environment=environment,
            name="amounts",
            kind="sql",
            address="SELECT count(amount) FROM targets",
        )
        apply_first(environment, folder)
        return environment

    return make


def apply_first(environment, folder: Folder) -> None:
    from migrations_app.engines import Limits
    from migrations_app.engines.prisma import PrismaEngine

    if not (folder.path / "20250101000000_init").exists():
        folder.add("20250101000000_init", SCHEMA)
    engine = PrismaEngine(folder.path)
    with psycopg.connect(environment.dsn, autocommit=True) as connection:
        engine.ensure_history(connection)
        script = engine.read_folder().scripts[0]
        engine.apply(connection, script, Limits(), lambda *_: None, lambda _: None)


@pytest.fixture
def environment(make_environment):
    return make_environment()


@pytest.fixture
def target(environment) -> Iterator[psycopg.Connection]:
    """A session in the environment's database, as its owner."""
    with psycopg.connect(environment.dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def migrate(transactional_db, environment, operator) -> Callable:
    """`migrate()` reads, plans, requests and executes a migrate run here; returns the run."""
    from migrations_app.services.migrations import current_plan, request_migrate
    from opsconsole.environments.models import Environment
    from opsconsole.runs.models import Run
    from tests.worker import execute_run, observe_target

    def run(between: Callable[[], None] = lambda: None, **asked) -> Run:
        fresh = Environment.objects.select_related("application").get(pk=environment.pk)
        state = observe_target(fresh.targets.get())
        assert state.error == ""
        plan, _ = current_plan(fresh.targets.get())
        asked.setdefault("actor", operator)
        made = request_migrate(
            target=fresh.targets.get(),
            plan_hash=plan.hash,
            idempotency_key=uuid.uuid4().hex,
            **asked,
        )
        between()
        execute_run(made.pk, "test-worker")
        made.refresh_from_db()
        return made

    return run


def rows_read(node: dict, table: str) -> int:
    """How many rows of the table a plan fetched, those that a filter removed among them."""
    own = 0
    if node.get("Relation Name") == table:
        own = (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
    return own + sum(rows_read(child, table) for child in node.get("Plans", ()))


def log_of(run) -> str:
    """Everything the run printed."""
    return "\n".join(line.text for line in run.log_chunks.read_lines())


@pytest.fixture
def as_role(person):
    """`as_role("admin")` is a signed-in client of a new person with that role."""

    def make(role: str) -> Client:
        client = Client()
        client.force_login(person(role, f"{role}-{uuid.uuid4().hex[:4]}"))
        return client

    return make


@pytest.fixture
def seen(environment):
    """The environment as a worker has read it."""
    from tests.worker import observe_target

    observe_target(environment.targets.get())
    return environment


def url(environment, name: str, *more: str) -> str:
    """The address of a page of the environment."""
    return reverse(name, args=[environment.application.slug, environment.slug, *more])


@pytest.fixture
def broker(monkeypatch):
    """What is sent to the broker; `broker.away = True` and it takes nothing."""
    from celery import current_app

    class Broker:
        away = False
        sent: list[tuple[str, int]]

        def send(self, name, args, **_options) -> None:
            if self.away:
                raise ConnectionError("nobody listens")
            self.sent.append((name, args[0]))

    made = Broker()
    made.sent = []
    monkeypatch.setattr(current_app, "send_task", made.send)
    return made
