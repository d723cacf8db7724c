"""How fast a run's log is kept: beside bare psycopg, in one run, none lost.

Run as `.venv/bin/python -m benchmarks.log [LINES]`, by default 300,000. A migration raises so many
NOTICEs: received by psycopg alone, by a whole run (the step "migrate"), and the same lines given to
the recorder alone. Prints lines a second, and the run's share of psycopg's.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from benchmarks import bench, migrate

NOTICES = (
    "DO $$ BEGIN FOR n IN 1..{lines} LOOP RAISE NOTICE 'row % is done', n; END LOOP; END $$;\n"
)


def by_psycopg(folder: Path, lines: int) -> float:
    import psycopg

    received = []
    with psycopg.connect(migrate.empty(folder).dsn, autocommit=True) as connection:
        connection.add_notice_handler(received.append)
        began = time.monotonic()
        connection.execute(NOTICES.format(lines=lines).encode())
        taken = time.monotonic() - began
    assert len(received) == lines
    return taken


def by_recorder(environment: Any, lines: int) -> float:
    from opsconsole.runs.models import Run
    from opsconsole.runs.recorder import Recorder

    run = Run.objects.create(
        operation="backup",
        kind="backup",
        environment=environment,
        target=environment.targets.get(),
        status="running",
        claim_token=uuid.uuid4(),
        idempotency_key=uuid.uuid4().hex,
    )
    began = time.monotonic()
    with Recorder(run, ["a-secret-that-is-not-there"]) as recorder:
        for number in range(lines):
            recorder.log(f"NOTICE: row {number} is done")
    taken = time.monotonic() - began
    assert sum(1 for _line in run.log_chunks.read_lines()) == lines
    return taken


def main(lines: int) -> None:
    bench.start()
    from django.conf import settings

    from opsconsole.runs.models import Run

    with tempfile.TemporaryDirectory(dir=settings.MIGRATIONS_ROOTS[0]) as name:
        folder = Path(name)
        file = folder / "20260101000000_notices" / "migration.sql"
        file.parent.mkdir()
        file.write_text(NOTICES.format(lines=lines))
        bare = by_psycopg(folder, lines)
        whole = migrate.by_run(folder)
        run = Run.objects.filter(kind="migrate").latest("pk")
        kept = sum(" is done" in line.text for line in run.log_chunks.read_lines())
        assert kept == lines, f"{kept:,} of {lines:,} lines are kept"
        alone = by_recorder(migrate.empty(folder), lines)
    print(f"psycopg alone    {lines / bare:10,.0f} lines a second")
    print(f"a whole run      {lines / whole:10,.0f} lines a second, {bare / whole:.2f} of it")
    print(f"recorder alone   {lines / alone:10,.0f} lines a second")


if __name__ == "__main__":
    os.environ.setdefault("PYTEST_XDIST_WORKER", "bench")
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300_000)
