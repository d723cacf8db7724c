"""An embedded server, a console's database and one environment, for benchmarks in one process."""

from __future__ import annotations

import uuid
from typing import Any

ROW_BYTES = 1024


def start() -> None:
    """Start the servers (they end with the process) and set Django up on them."""
    import os

    import tests.embedded  # noqa: F401  (starts them when it is imported)

    os.environ["DJANGO_SETTINGS_MODULE"] = "opsconsole.project.settings"
    os.environ["OPSCONSOLE_TIME_SCALE"] = "1"
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
    from opsconsole.environments import secrets

    secrets.allow_opening()


def make_environment(megabytes: int) -> Any:
    """An environment whose database holds about so many MB of text; `dsn` is its address."""
    import psycopg
    from django.conf import settings

    from opsconsole.embedded.postgres import set_role
    from opsconsole.environments.models import Application, Environment, Target
    from opsconsole.environments.secrets import seal

    name = f"bench{uuid.uuid4().hex[:6]}"
    superuser = settings.OPSCONSOLE_HOME.read_addresses().superuser_dsn
    with psycopg.connect(superuser, autocommit=True) as connection:
        set_role(connection, name, "pw", "LOGIN CREATEDB")
        connection.execute(f"CREATE DATABASE {name} OWNER {name}")
    dsn = f"postgresql://{name}:pw@/{name}?host={superuser.split('host=')[1]}"
    application, _made = Application.objects.get_or_create(slug="bench", defaults={"name": "B"})
    environment = Environment.objects.create(
        application=application,
        slug=name,
        name=name,
        migrations_folder="/nowhere",
        settle_seconds=1,
    )
    Target.objects.create(environment=environment, dsn_encrypted=seal(dsn))
    environment.dsn = dsn
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE filler (id bigserial PRIMARY KEY, t text)")
        connection.execute(
            "INSERT INTO filler (t) SELECT (SELECT string_agg(md5(n::text || i), '')"
            " FROM generate_series(1, 31) i) FROM generate_series(1, %s) n",
            [megabytes * 1024 * 1024 // ROW_BYTES],
        )
        connection.execute("CREATE TABLE pings (id bigserial PRIMARY KEY, client int)")
        connection.execute("VACUUM ANALYZE")
    return environment


def admin() -> Any:
    from opsconsole.access.models import Membership, User

    user, made = User.objects.get_or_create(username="bench")
    if made:
        Membership.objects.create(user=user, role="admin")
    return user


def execute(run: Any) -> Any:
    """Run it here; fails loudly unless it succeeded."""
    from opsconsole.runs.executor import execute_run

    execute_run(run.pk, "bench")
    run.refresh_from_db()
    assert run.status == "succeeded", run.summary
    return run


def prisma(root: Any, environment: Any, *words: str) -> str:
    """Run the real Prisma CLI in the project `root`, on the environment; returns its output."""
    import os
    import shutil
    import subprocess

    from opsconsole.project.demo import SOURCE
    from tests.migrations_app.test_prisma_cli import HERE
    from tests.toolbox import prisma as cli

    if not (root / "node_modules").exists():
        shutil.copy(SOURCE / "prisma" / "schema.prisma", root / "prisma")
        for name in ("prisma.config.ts", "package.json"):
            shutil.copy(HERE / name, root)
        (root / "node_modules").symlink_to(HERE / "node_modules")
    done = subprocess.run(
        [str(cli()), *words],
        cwd=root,
        capture_output=True,
        text=True,
        env=os.environ
        | {
            "DATABASE_URL": environment.dsn.replace("@/", "@localhost/"),
            "CHECKPOINT_DISABLE": "1",
            "PRISMA_SCHEMA_ENGINE_BINARY": "/bin/true",
            "PRISMA_QUERY_ENGINE_LIBRARY": "/bin/true",
        },
    )
    return done.stdout + done.stderr
