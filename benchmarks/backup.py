"""A backup by the console against the tools alone, on the same data in the same run.

Run as `.venv/bin/python -m benchmarks.backup [MEGABYTES]`. Prints seconds and ratios of:
the console's dump step (dumped, compressed, hashed, stored, counted and hashed per table); the
dump within it; `pg_dump` with the same flags through `zstd` and `sha256sum` to the same disk;
`pg_dump -Fc` as it is by default; and the plain `pg_dump > file.sql` of a shell script.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
import uuid
from pathlib import Path

from benchmarks import bench

TIMES = 3


def main(megabytes: int) -> None:
    bench.start()
    from django.conf import settings

    from backups_app.models import Backup
    from backups_app.services import request_backup
    from opsconsole.runs.models import Step
    from opsconsole.targets.tools import find_tools

    environment, actor = bench.make_environment(megabytes), bench.admin()
    pg_dump = next(t for t in reversed(find_tools()) if not t.has_tls or t.major == 18).pg_dump
    folder = Path(settings.BACKUPS_FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    commands = {
        "same flags | zstd | sha256sum": (
            f"{pg_dump} -Fc -Z0 '{environment.dsn}' | zstd -q -1 -T1 | "
            f"tee {folder}/bench.dump | sha256sum > {folder}/bench.sum; sync {folder}/bench.dump"
        ),
        "pg_dump -Fc (gzip 6)": f"{pg_dump} -Fc '{environment.dsn}' > {folder}/bench.dump",
        "pg_dump > file.sql": f"{pg_dump} '{environment.dsn}' > {folder}/bench.sql",
    }
    best: dict[str, float] = {}
    for _round in range(TIMES):
        run = bench.execute(
            request_backup(
                actor=actor, target=environment.targets.get(), idempotency_key=uuid.uuid4().hex
            )
        )
        step = Step.objects.get(run=run, name="backup")
        took = (step.finished_at - step.started_at).total_seconds()
        _keep(best, "console: dump, count, hash", took)
        dump = Backup.objects.get(run=run).manifest["dump_seconds"]
        _keep(best, "console: dump", dump)
        for name, command in commands.items():
            began = time.monotonic()
            subprocess.run(["sh", "-c", command], check=True, stderr=subprocess.DEVNULL)
            _keep(best, name, time.monotonic() - began)
            for path in folder.glob("bench.*"):
                path.unlink()
    base = best["same flags | zstd | sha256sum"]
    print(
        f"{megabytes} MB, best of {TIMES}; peak memory of the worker "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB"
    )
    for name, seconds in best.items():
        print(f"{name:32} {seconds:8.2f} s {seconds / base:8.2f}")


def _keep(best: dict[str, float], name: str, seconds: float) -> None:
    best[name] = min(seconds, best.get(name, seconds))


if __name__ == "__main__":
    os.environ.setdefault("PYTEST_XDIST_WORKER", "bench")
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
