"""Make the demo application: databases, data, migrations, environments, and ways to break it.

Here and not in `opsconsole.demo`, because it applies migrations with the engine itself.
"""

from __future__ import annotations

import re
import shutil
import socket
from datetime import UTC, datetime
from pathlib import Path

import psycopg
from django.conf import settings
from django.db import transaction
from psycopg import sql

from migrations_app.engines import Limits
from migrations_app.engines.prisma import PrismaEngine
from migrations_app.reading.observation import observe_target
from opsconsole import demo as demo_package
from opsconsole.access.choices import Role
from opsconsole.access.models import Membership, User
from opsconsole.access.permissions import authorize
from opsconsole.access.places import CONSOLE
from opsconsole.demo.address import (
    APPLICATION,
    ENVIRONMENTS,
    DemoEnvironment,
    dsn_of,
    find,
    password_of,
)
from opsconsole.embedded.postgres import set_role
from opsconsole.environments import secrets
from opsconsole.environments.models import Application, Environment, Target
from opsconsole.events import recording as audit
from opsconsole.events.models import AuditEvent
from opsconsole.exceptions import Refused
from opsconsole.health.models import HealthCheck
from opsconsole.project.events import DEMO_CREATED, DEMO_RESET, DemoReset
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.models import Run

SOURCE = Path(demo_package.__file__).parent / APPLICATION
BACKFILL = "20250616090000_backfill_commission_currency"
BREAK_SQL = """\
-- Adds a column, then makes a mistake.
ALTER TABLE "payouts" ADD COLUMN "approved_by" INTEGER;

CREATE TABLE "payout_notes" (
    "id" SERIAL PRIMARY KEY,
    "payout_id" INTEGER NOT NULL
);

ALTER TABLE "payouts"
    ADD CONSTRAINT "payouts_approved_by_fkey"
    FOREIGN KEY ("approved_by") REFERENCES "managers"("id");
"""
BREAK_NON_ATOMIC = """\
-- Commits half of its work, then makes a mistake.
BEGIN;
ALTER TABLE "payouts" ADD COLUMN "approved_by" INTEGER;
CREATE TABLE "payout_notes" ("id" SERIAL PRIMARY KEY, "payout_id" INTEGER NOT NULL);
COMMIT;
UPDATE "payouts" SET "approved_by" = "manager_id";
"""
BREAK_HEALTH = """\
-- Applies without an error, and the application no longer finds the column it reads.
ALTER TABLE "targets" RENAME COLUMN "amount" TO "target_amount";
"""
BREAKS = {text.encode() for text in (BREAK_SQL, BREAK_NON_ATOMIC, BREAK_HEALTH)}


def folder() -> Path:
    return settings.OPSCONSOLE_HOME.path / "demo" / APPLICATION


def migrations_folder() -> Path:
    return folder() / "prisma" / "migrations"


def exists() -> bool:
    return Application.objects.filter(slug=APPLICATION).exists()


def own_application() -> Application | None:
    """The application that the demo made; None before that, or when a person made one so named."""
    made = AuditEvent.objects.filter(action=DEMO_CREATED.key).values_list("object_id", flat=True)
    return Application.objects.filter(slug=APPLICATION, pk__in=[int(pk) for pk in made]).first()


def reset(only: str = "", *, actor: User | None = None) -> None:
    """Make everything, or one environment, as on the first start; None is the console itself.

    Only what the demo made is lost: the live databases of its environments. Databases that were
    made of them since (copies, replaced ones), backups, runs and the audit trail stay, and
    migrations of other people's are set aside. Raises Refused outside the embedded mode, while a
    run is active, for an application or a database of its name that is not the demo's, and
    KeyError for an unknown environment.
    """
    chosen = [find(only)] if only else list(ENVIRONMENTS)
    if actor:
        authorize(actor, "settings.edit", CONSOLE)
    application = own_application()
    if application is None and exists():
        raise Refused(f"the application {APPLICATION} is not the demo's: nothing was touched")
    secrets.allow_opening()
    superuser = settings.OPSCONSOLE_HOME.read_addresses().superuser_dsn
    if not superuser:
        raise Refused("the demo needs the embedded PostgreSQL: start `manage.py up` first")
    active = Run.objects.filter(
        environment__application__slug=APPLICATION, status__in=RunStatus.active()
    ).first()
    if active:
        raise Refused(f"{active} is {active.state.label.lower()}: wait for it or cancel it")
    with psycopg.connect(superuser, autocommit=True) as connection:
        for environment in chosen:
            _require_own_database(connection, environment)
    if application:
        with transaction.atomic():
            data = DemoReset(environments=[environment.slug for environment in chosen])
            audit.record(DEMO_RESET, actor=actor, about=application, data=data)
    mend()
    shutil.rmtree(folder(), ignore_errors=True)
    shutil.copytree(SOURCE, folder())
    for environment in chosen:
        _make_database(superuser, environment)
    _make_records()


def _require_own_database(connection: psycopg.Connection, demo: DemoEnvironment) -> None:
    """Raise Refused unless a database of the demo's name is of the demo's role, or not there."""
    found = connection.execute(
        "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s", [demo.role]
    ).fetchone()
    if found and found[0] != demo.role:
        raise Refused(f"the database {demo.role} is not the demo's: nothing was touched")


def _make_database(superuser: str, demo: DemoEnvironment) -> None:
    home = settings.OPSCONSOLE_HOME
    with psycopg.connect(superuser, autocommit=True) as connection:
        set_role(connection, demo.role, password_of(home, demo.role), "LOGIN CREATEDB")
        name = sql.Identifier(demo.role)
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(name, name))
    engine = PrismaEngine(migrations_folder())
    scripts = engine.read_folder().scripts
    scripts = scripts[: len(scripts) - demo.behind]
    with psycopg.connect(dsn_of(home, demo), autocommit=True) as connection:
        engine.ensure_history(connection)
        seeded = False
        for script in scripts:
            if script.name == BACKFILL:
                _fill(connection, demo)
                seeded = True
            engine.apply(connection, script, Limits(), lambda *_: None, lambda _: None)
        if not seeded:
            _fill(connection, demo)
        connection.execute("ANALYZE")


def _fill(connection: psycopg.Connection, demo: DemoEnvironment) -> None:
    """Believable data, the same at every reset."""
    with connection.transaction():
        connection.execute("SELECT setseed(0.42)")
        connection.execute(
            """INSERT INTO "teams" ("name", "region", "currency")
               SELECT r || ' ' || n, r, c FROM (VALUES ('North', 'EUR'), ('South', 'EUR'),
               ('East', 'PLN'), ('West', 'USD')) AS t (r, c), generate_series(1, 5) n"""
        )
        connection.execute(
            """INSERT INTO "users" ("email", "name", "role", "team_id", "created_at")
               SELECT lower(f || '.' || l || n || '@example.com'), f || ' ' || l,
                      (CASE WHEN n %% 25 = 0 THEN 'LEAD' ELSE 'REP' END)::"Role", 1 + n %% 20,
                      timestamp '2024-01-01' + n * interval '4 hours'
                 FROM (SELECT n, (ARRAY['Ada','Ben','Chloe','Dmitri','Elif','Femi','Grace','Hugo',
                       'Ines','Jonas'])[1 + n %% 10] f, (ARRAY['Novak','Okafor','Petit','Quinn',
                       'Rossi','Schmidt','Tanaka','Usman','Virtanen','Wang'])[1 + (n / 10) %% 10] l
                         FROM generate_series(1, %s) n) people""",
            [demo.users],
        )
        connection.execute(
            """INSERT INTO "targets" ("user_id", "period_start", "period_end", "amount")
               SELECT 1 + n %% %s, q, q + interval '3 months',
                      round((20000 + random() * 180000)::numeric, 2)
                 FROM (SELECT n, (date '2023-01-01' + (n %% 12) * interval '3 months')::date q
                         FROM generate_series(1, %s) n) quarters""",
            [demo.users, demo.targets],
        )
        connection.execute(
            """INSERT INTO "commissions" ("target_id", "deal", "amount", "closed_at", "status")
               SELECT 1 + n %% %s, 'Deal ' || n, round((50 + random() * 4000)::numeric, 2),
                      timestamp '2023-01-01' + random() * interval '1000 days',
                      (ARRAY['PENDING','APPROVED','PAID'])[1 + n %% 3]::"CommissionStatus"
                 FROM generate_series(1, %s) n""",
            [demo.targets, demo.commissions],
        )
        connection.execute(
            """INSERT INTO "payouts" ("user_id", "month", "total", "paid_at")
               SELECT u."id", m::date, round((500 + random() * 3000)::numeric, 2), m
                 FROM "users" u, generate_series(date '2025-01-01', date '2025-06-01',
                      interval '1 month') m"""
        )


def _make_records() -> None:
    with transaction.atomic():
        application, created = Application.objects.get_or_create(
            slug=APPLICATION, defaults={"name": "Sales Commission"}
        )
        for position, demo in enumerate(ENVIRONMENTS, start=1):
            _make_environment(application, demo, position)
        if created:
            audit.record(DEMO_CREATED, actor=None, about=application)
    for target in Target.objects.filter(environment__application=application):
        observe_target(target)


def _make_environment(application: Application, demo: DemoEnvironment, position: int) -> None:
    environment, _created = Environment.objects.update_or_create(
        application=application,
        slug=demo.slug,
        defaults={
            "name": demo.name,
            "position": position,
            "is_protected": demo.is_protected,
            "migrations_folder": str(migrations_folder()),
            "archived_at": None,
        },
    )
    Target.objects.update_or_create(
        environment=environment,
        defaults={
            "dsn_encrypted": secrets.seal(dsn_of(settings.OPSCONSOLE_HOME, demo)),
            "dsn_reference": "",
        },
    )
    HealthCheck.objects.get_or_create(
        environment=environment,
        name="GET /health",
        defaults={"address": _address(_free_port())},
    )
    HealthCheck.objects.get_or_create(
        environment=environment,
        name="SELECT 1",
        defaults={"address": "SELECT 1", "kind": HealthCheck.Kind.SQL},
    )


OWN_ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d{1,5})/health")


def _address(port: int) -> str:
    return f"http://127.0.0.1:{port}/health"


def make_people() -> bool:
    """One person of each role, who share a password while only this machine reaches the console.

    Whoever has set one of their own keeps it. Returns whether the admin has the shared one.
    """
    shared = settings.OPSCONSOLE_HOME.read_keys().demo_password
    for role in Role:
        user, created = User.objects.get_or_create(username=role.value)
        if created:
            Membership.objects.create(user=user, role=role)
        if created or (not settings.IS_HERE_ONLY and user.check_password(shared)):
            user.set_password(shared if settings.IS_HERE_ONLY else None)
            user.save(update_fields=["password"])
    return User.objects.get(username=Role.ADMIN.value).check_password(shared)


def services() -> list[tuple[str, str]]:
    """(name, argument) of each backend to run; a taken port is exchanged for a free one.

    No port is the same on every home: two consoles that start at once would find it free both,
    and one of them would then ask the other's backend for its health.
    """
    found: list[tuple[str, str]] = []
    application = own_application()
    for demo in ENVIRONMENTS if application else ():
        check = HealthCheck.objects.filter(
            environment__application=application,
            environment__slug=demo.slug,
            name="GET /health",
        ).first()
        own = OWN_ADDRESS.fullmatch(check.address) if check else None
        if check is None or own is None:
            continue
        port = _free_port(int(own[1]))
        if check.address != _address(port):
            check.address = _address(port)
            check.save(update_fields=["address"])
        found.append((demo.slug, f"{settings.OPSCONSOLE_HOME.path}/{demo.slug}:{port}"))
    return found


def _free_port(wanted: int = 0) -> int:
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise Refused("no free port for the demo's backend")


def break_with(text: str, name: str) -> str:
    """Add a pending migration to the demo's folder; returns its name."""
    stamp = datetime.now(UTC).strftime("%Y%m%d%H%M%S")
    full = f"{stamp}_{name}"
    path = migrations_folder() / full
    path.mkdir(parents=True)
    (path / "migration.sql").write_text(text)
    for target in Target.objects.filter(environment__application__slug=APPLICATION):
        secrets.allow_opening()
        observe_target(target)
    return full


def mend() -> list[str]:
    """Take away what was added to the demo's migrations; returns their names.

    Those of `break_with` are deleted, other people's are set aside, beside the demo's folder.
    """
    if not migrations_folder().is_dir():
        return []
    ours = {path.name for path in (SOURCE / "prisma" / "migrations").iterdir()}
    gone = [p for p in migrations_folder().iterdir() if p.is_dir() and p.name not in ours]
    for path in gone:
        if _is_broken_here(path):
            shutil.rmtree(path)
        else:
            _set_aside(path)
    return [path.name for path in gone]


def _is_broken_here(path: Path) -> bool:
    files = list(path.iterdir())
    return [file.name for file in files] == ["migration.sql"] and files[0].read_bytes() in BREAKS


def _set_aside(path: Path) -> None:
    aside = folder().parent / "set-aside" / f"{datetime.now(UTC):%Y%m%d%H%M%S%f}"
    aside.mkdir(parents=True)
    shutil.move(path, aside / path.name)
