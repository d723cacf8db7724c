"""Do, as a worker of today, what a console of 0.1 left queued or under way; print how each ended.

A process of its own, started by `test_upgrade.py` on the upgraded database. NOWHERE is the address
of a database that exists: the targets of the application `every-state` follow it.
"""

from __future__ import annotations

import json
import sys

import django

OPEN = ["queued", "running", "cancelling", "lost"]


def set_right(folder: str) -> None:
    """Name a folder, where the rows name a repository and a scratch server of other machines."""
    from migrations_app.models import Repository
    from opsconsole.environments.models import Environment, Target

    Repository.objects.all().delete()
    Environment.objects.update(migrations_folder=folder)
    Target.objects.update(scratch_dsn_encrypted="")


def work_once() -> None:
    """What the scheduler and the workers do: reap, read how lost runs ended, execute queued ones."""
    from opsconsole.runs import services as runs
    from opsconsole.runs.executor import execute_run
    from opsconsole.runs.models import Run
    from opsconsole.runs.resolver import resolve_lost_run

    runs.reap_expired()
    for run_id in runs.lost_runs():
        resolve_lost_run(run_id)
    for run_id in Run.objects.filter(status="queued").values_list("pk", flat=True):
        execute_run(run_id, "worker-of-today")


def main() -> None:
    django.setup()
    from opsconsole.environments import secrets
    from opsconsole.events.models import AuditEvent
    from opsconsole.runs.models import Run

    secrets.allow_opening()
    set_right(sys.argv[1])
    before = dict(Run.objects.filter(status__in=OPEN).values_list("pk", "status"))
    for _twice in range(2):
        work_once()
    ended = [
        {
            "before": before[run.pk],
            "kind": run.kind,
            "status": run.status,
            "summary": run.summary,
            "starts": AuditEvent.objects.filter(run=run, action="run.started").count(),
        }
        for run in Run.objects.filter(pk__in=before).order_by("pk")
    ]
    json.dump(ended, sys.stdout)


if __name__ == "__main__":
    main()
