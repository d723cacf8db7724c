"""The state of 500 migrations in three environments: what reading and showing it costs.

Run as `.venv/bin/python -m benchmarks.board [MIGRATIONS]`. In one run: queries to a target per
refresh, the CPU time of one warm refresh of all three against `prisma migrate status` run three
times (its idle waits not counted), and the time of the page from what workers saw.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

from benchmarks import bench

TIMES = 5
ENVIRONMENTS = ("development", "staging", "production")


def make_folder(root: Path, count: int) -> Path:
    folder = root / "prisma" / "migrations"
    for number in range(count):
        script = folder / f"{20200101000000 + number}_table_{number}" / "migration.sql"
        script.parent.mkdir(parents=True)
        script.write_text(
            f'CREATE TABLE "t{number}" ("id" SERIAL PRIMARY KEY, "name" TEXT NOT NULL);\n'
            f'CREATE INDEX "t{number}_name" ON "t{number}"("name");\n'
        )
    (folder / "migration_lock.toml").write_text('provider = "postgresql"\n')
    return folder


def apply_all(environment) -> None:
    import psycopg

    from migrations_app.engines import Limits
    from migrations_app.engines.prisma import PrismaEngine

    engine = PrismaEngine(Path(environment.migrations_folder))
    with psycopg.connect(environment.dsn, autocommit=True) as connection:
        connection.execute("DROP TABLE filler, pings")
        engine.ensure_history(connection)
        for script in engine.read_folder().scripts:
            engine.apply(connection, script, Limits(), lambda *_: None, lambda _: None)


def refresh(environments) -> None:
    from migrations_app.reading.observation import observe_target

    for environment in environments:
        state = observe_target(environment.targets.get())
        assert state.error == "", state.error


def queries_of_one_refresh(environment) -> list[str]:
    """What is sent to the target, as psycopg's own sessions see it."""
    import psycopg

    sent: list[str] = []
    original = psycopg.Cursor.execute

    def note(cursor, query, *args, **kwargs):
        sent.append(" ".join(str(query).split())[:60])
        return original(cursor, query, *args, **kwargs)

    psycopg.Cursor.execute = note  # type: ignore[method-assign]
    try:
        from migrations_app.reading.observation import observe
        from migrations_app.sources.folders import engine_for
        from opsconsole.environments.secrets import resolve_dsn
        from opsconsole.targets import server

        dsn = resolve_dsn(environment.targets.get())
        with server.connect(dsn, application_name="opsconsole:bench") as connection:
            observe(engine_for(environment, dsn), connection, dsn)
    finally:
        psycopg.Cursor.execute = original  # type: ignore[method-assign]
    return [query for query in sent if "set_config" not in query and "migrations_app" not in query]


def prisma_seconds(root: Path, environments) -> float:
    """CPU seconds of `prisma migrate status` against each environment, one after the other."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for environment in environments:
        said = bench.prisma(root, environment, "migrate", "status")
        assert "Database schema is up to date!" in said, (environment.slug, said)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def page_seconds(slug: str) -> float:
    from django.test import Client

    client = Client()
    client.force_login(bench.admin())
    best = 9.0
    for _time in range(TIMES):
        began = time.perf_counter()
        answer = client.get(f"/{slug}", headers={"host": "localhost"}, secure=True)
        best = min(best, time.perf_counter() - began)
        assert answer.status_code == 200
    return best


def main(count: int) -> None:
    bench.start()
    from django.conf import settings

    root = settings.MIGRATIONS_ROOTS[0] / "bench"
    folder = make_folder(root, count)
    environments = []
    for position, slug in enumerate(ENVIRONMENTS):
        environment = bench.make_environment(0)
        environment.name = environment.slug = slug
        environment.position, environment.migrations_folder = position, str(folder)
        environment.save()
        apply_all(environment)
        environments.append(environment)
    refresh(environments)
    sent = queries_of_one_refresh(environments[0])
    best = 9.0
    for _time in range(TIMES):
        began = time.process_time()
        refresh(environments)
        best = min(best, time.process_time() - began)
    theirs = prisma_seconds(root, environments)
    print(f"migrations: {count}, environments: {len(environments)}")
    print(f"queries to each target per refresh   {len(sent)}")
    print(f"CPU of one warm refresh of all       {best * 1000:8.0f} ms")
    print(
        f"CPU of prisma migrate status, x{len(environments)}    {theirs * 1000:8.0f} ms "
        f"({theirs / best:.0f} times)"
    )
    print(f"the page, from what workers saw      {page_seconds('bench') * 1000:8.0f} ms")


if __name__ == "__main__":
    os.environ.setdefault("PYTEST_XDIST_WORKER", "bench")
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
