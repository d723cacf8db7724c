"""What a run adds to applying migrations: its step "migrate" beside the engine alone.

Run as `.venv/bin/python -m benchmarks.migrate [FILES] [TIMES]`, by default 820 files, three times.
The same files, in turns, on new databases of one server: by the engine on a session of its own,
and by a whole run, of which the step counts. Prints seconds and the ratio of each pair, and the
middle one of the ratios.
"""

from __future__ import annotations

import sys
import tempfile
import time
import uuid
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import bench

# As a tool writes them for an application that grows: most files are a statement or two.
TABLE = """-- CreateTable
CREATE TABLE "t{n}" (
    "id" TEXT NOT NULL,
    "name" TEXT NOT NULL,
    "createdAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "t{n}_pkey" PRIMARY KEY ("id")
);

-- CreateIndex
CREATE UNIQUE INDEX "t{n}_name_key" ON "t{n}"("name");
"""
COLUMN = '-- AlterTable\nALTER TABLE "t{table}" ADD COLUMN "c{n}" INTEGER;\n'


def write_files(folder: Path, count: int) -> None:
    for n in range(count):
        file = folder / f"2026{n:010}_change" / "migration.sql"
        file.parent.mkdir(parents=True)
        table = n - n % 5
        file.write_text(TABLE.format(n=n) if n == table else COLUMN.format(n=n, table=table))


def by_engine(folder: Path) -> float:
    import psycopg

    from migrations_app.engines import Limits
    from migrations_app.engines.prisma import PrismaEngine

    engine = PrismaEngine(folder)
    scripts = engine.read_folder().scripts
    with psycopg.connect(empty(folder).dsn, autocommit=True) as connection:
        engine.ensure_history(connection)
        began = time.monotonic()
        for script in scripts:
            engine.apply(connection, script, Limits(), lambda *_: None, lambda _: None)
        return time.monotonic() - began


def by_run(folder: Path) -> float:
    from migrations_app.reading.observation import observe_target
    from migrations_app.services.migrations import current_plan, request_migrate
    from opsconsole.health.models import HealthCheck

    environment = empty(folder)
    HealthCheck.objects.create(environment=environment, name="up", kind="sql", address="SELECT 1")
    target = environment.targets.get()
    observe_target(target)
    plan, _state = current_plan(target)
    run = bench.execute(
        request_migrate(
            actor=bench.admin(),
            target=target,
            plan_hash=plan.hash,
            idempotency_key=uuid.uuid4().hex,
        )
    )
    step = run.steps.get(name="migrate")
    return float((step.finished_at - step.started_at).total_seconds())


def empty(folder: Path) -> Any:
    import psycopg

    environment = bench.make_environment(0)
    environment.migrations_folder = str(folder)
    environment.save()
    with psycopg.connect(environment.dsn, autocommit=True) as connection:
        connection.execute("DROP TABLE filler, pings")
    return environment


def main(files: int, times: int) -> None:
    bench.start()
    from django.conf import settings

    root = Path(tempfile.mkdtemp(dir=settings.MIGRATIONS_ROOTS[0]))
    folder = root / "prisma" / "migrations"
    write_files(folder, files)
    print(f"{'engine s':>9} {'run s':>9} {'ratio':>6}")
    ratios = []
    for _ in range(times):
        engine, run = by_engine(folder), by_run(folder)
        ratios.append(run / engine)
        print(f"{engine:9.2f} {run:9.2f} {ratios[-1]:6.2f}", flush=True)
    print(f"{files} files, ratio {median(ratios):.2f}")


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    main(*(numbers + [820, 3][len(numbers) :]))
