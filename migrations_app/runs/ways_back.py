"""What undoes a migrate run that failed: by itself, or a way that a person chooses."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from backups_app.models import Backup
from backups_app.runs.taking import BACKUP
from migrations_app.parameters import MigrateParameters
from migrations_app.runs import steps
from migrations_app.runs.results import MigrateResult
from opsconsole.environments.choices import AutoRollback
from opsconsole.exceptions import NeedsAttention
from opsconsole.formats import counted, duration
from opsconsole.health.step import UNHEALTHY_BEFORE, HealthStep, failing_still
from opsconsole.runs.step import RunContext, Step
from opsconsole.sentences import Text, say, say_count
from opsconsole.targets import activity

Migrating = RunContext[MigrateParameters, MigrateResult]
MigrateSteps = Sequence[Step[MigrateParameters, MigrateResult]]


def way_back(context: Migrating) -> MigrateSteps:
    """Steps that go back by themselves; none when nothing was applied by then.

    Raises NeedsAttention when a person has to choose.
    """
    result = context.result
    if result.applied is None:
        return []
    if result.migrating:
        # Good migrations before the broken file stay: they are in the history.
        _require_health_of_what_landed(context)
        return []
    backup = context.find(BACKUP)
    policy = AutoRollback(context.environment.auto_rollback)
    if backup is None:
        raise NeedsAttention(
            say(
                "%(failure)s. All migrations are applied, and no backup was taken before them.",
                failure=context.failure,
            ),
            ways=ways_of(None, result),
        )
    with context.connect("writes") as connection:
        written = writes_since(connection, backup, result.own_writes or 0)
    result.writes_since_backup = written
    context.log(f"rollback: others have written up to {counted(written, 'row')} since the backup")
    if policy is AutoRollback.NEVER or (policy is AutoRollback.NO_WRITES and written):
        why = (
            say_count(
                "others have written up to %(count)s row since the backup",
                "others have written up to %(count)s rows since the backup",
                written,
            )
            if written
            else say("this environment leaves going back to a person")
        )
        raise NeedsAttention(
            say(
                "%(failure)s. All migrations are applied; not rolled back by itself, because %(why)s.",
                failure=context.failure,
                why=why,
            ),
            ways=ways_of(backup, result),
        )
    return [steps.Rollback(ways_of(backup, result)), HealthStep("rolled back")]


def _require_health_of_what_landed(context: Migrating) -> None:
    """Raise NeedsAttention when a part of the plan landed and health is failing."""
    result = context.result
    if not (result.applied or result.landed):
        return
    problem = failing_still(context, "after")
    if not problem:
        return
    backup = context.find(BACKUP)
    if backup is not None:
        with context.connect("writes") as connection:
            result.writes_since_backup = writes_since(connection, backup, result.own_writes or 0)
    raise NeedsAttention(
        broken_by_a_part(context.failure, problem, context.find(UNHEALTHY_BEFORE) or ""),
        ways=ways_of(backup, result),
    )


def broken_by_a_part(failure: Text, problem: str, before: str) -> Text:
    """`before` is what was failing before the run; "" for nothing."""
    if before:
        return say(
            "Health is failing (%(problem)s), as it was before this run (%(before)s), and a part of "
            "the plan is in the database. %(failure)s.",
            problem=problem,
            before=before,
            failure=failure,
        )
    return say(
        "Health is failing (%(problem)s) with the part of the plan that is in the database. "
        "%(failure)s.",
        problem=problem,
        failure=failure,
    )


def ways_of(backup: Backup | None, result: MigrateResult) -> list[dict[str, str]]:
    """What a person can choose after all or a part of the plan landed."""
    restore = [restore_way(backup, result.writes_since_backup)] if backup else []
    return [*restore, keep_way(result.applied or [])]


def writes_since(connection: psycopg.Connection, backup: Backup, own_writes: int) -> int:
    """Rows written by others since the backup: an upper bound, because aborted ones count."""
    before = int(backup.manifest["rows_written"])
    return max(0, activity.rows_written(connection) - before - own_writes)


def restore_way(backup: Backup, written: int | None) -> dict[str, str]:
    seconds = backup.restore_seconds
    build = "an unknown time" if seconds is None else f"about {duration(seconds)}"
    rows = "an unknown number of rows" if written is None else f"up to {counted(written, 'row')}"
    return {
        "action": "restore",
        "backup": str(backup.pk),
        "title": f"Swap backup {backup.pk} in",
        "takes": f"{build} to build, then an outage well under a second",
        "leaves": f"{rows} written by others since the backup: they stay in the replaced "
        "database, which is kept",
    }


def keep_way(applied: list[str]) -> dict[str, str]:
    return {
        "action": "keep",
        "title": "Keep the migrated database",
        "takes": "nothing: repair the application, or migrate forward",
        "leaves": f"{counted(len(applied), 'migration')} applied and health as it is",
    }
