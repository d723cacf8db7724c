"""What backup, verify and restore runs do, and how their end is read after a lost worker."""

from __future__ import annotations

from contextlib import suppress

import psycopg

from backups_app import building, copies, importing, pruning, steps, swapping
from backups_app.models import Backup, ReplacedDatabase
from backups_app.models.backup import CopyState
from opsconsole.choices import BackupReason, ProofLevel, RunKind, RunStatus
from opsconsole.exceptions import AdapterError
from opsconsole.models import Run
from opsconsole.runner.health_step import HealthStep
from opsconsole.runner.registry import (
    PERIODIC,
    Periodic,
    Pipeline,
    Resolution,
    register_pipeline,
)
from opsconsole.runner.step import RunContext, Step
from opsconsole.services.secrets import resolve_dsn, resolve_scratch_dsn
from opsconsole.targets import server


def register() -> None:
    register_pipeline(
        Pipeline(RunKind.BACKUP, steps=backup_steps, resolve=resolve_backup,
                 describe=describe_backup, cleanup=cleanup)
    )  # fmt: skip
    register_pipeline(
        Pipeline(RunKind.VERIFY, steps=lambda _context: [steps.BackupPreflight(), steps.ProveAgain()],
                 resolve=resolve_backup, describe=describe_backup, cleanup=cleanup)
    )  # fmt: skip
    register_pipeline(
        Pipeline(RunKind.RESTORE, steps=restore_steps, resolve=resolve_restore,
                 describe=describe_restore, cleanup=cleanup)
    )  # fmt: skip
    register_pipeline(
        Pipeline(RunKind.PRUNE, steps=lambda _context: [pruning.MarkExpired(),
                 pruning.DeleteExpired()], resolve=resolve_prune, describe=describe_prune)
    )  # fmt: skip
    register_pipeline(
        Pipeline(RunKind.IMPORT, steps=lambda _context: [steps.ImportPreflight(),
                 steps.ImportArchive(), steps.ReleaseFromQuarantine(), steps.CopyBackup()],
                 resolve=resolve_import, describe=describe_import, cleanup=cleanup_import)
    )  # fmt: skip
    PERIODIC.append(Periodic("backups_app.tend", "TEND_SECONDS"))


def backup_steps(context: RunContext) -> list[Step]:
    reason = BackupReason(context.run.parameters.get("reason", BackupReason.MANUAL))
    return [steps.BackupPreflight(), steps.TakeBackup(reason), steps.ProveBackup(),
            steps.CopyBackup()]  # fmt: skip


def restore_steps(context: RunContext) -> list[Step]:
    if "undo" in context.run.parameters:
        return [steps.UndoPreflight(), steps.SwapBack(), HealthStep("after")]
    if "database" in context.run.parameters:
        return [steps.RestorePreflight(), steps.BuildNewDatabase()]
    backs_up = context.run.parameters.get("backs_up_first")
    return [
        steps.RestorePreflight(),
        *([steps.TakeProvenBackup(BackupReason.BEFORE_RESTORE)] if backs_up else []),
        steps.BuildReplacement(),
        steps.SwapIn(),
        HealthStep("after"),
    ]


def describe_backup(context: RunContext) -> str:
    backup: Backup | None = context.notes.get("backup")
    if backup is None:
        return "No backup was taken. The database was only read."
    said = f"Backup {backup.pk}, {backup.size_bytes / 1e6:,.1f} MB, {backup.proof_level.label}."
    unknown = backup.copies.filter(state=CopyState.UNREACHABLE).select_related("storage")
    return said + "".join(
        f" The copy in {copy.storage} could not be checked; the proof stays as it was."
        for copy in unknown
    )


def describe_import(context: RunContext) -> str:
    backup: Backup | None = context.notes.get("backup")
    if backup is None:
        return "Nothing was imported. No database was touched."
    if backup.proof < ProofLevel.RESTORED:
        return f"Backup {backup.pk} stays in quarantine: it was not restored yet."
    return f"Backup {backup.pk}, {backup.size_bytes / 1e6:,.1f} MB, was restored and counted."


def cleanup_import(context: RunContext) -> None:
    importing.discard_upload(context.run)
    cleanup(context)


def resolve_import(run: Run) -> Resolution:
    importing.discard_upload(run)
    return resolve_backup(run)


def describe_prune(context: RunContext) -> str:
    return f"{context.run.result.get('deleted', 0)} backups deleted. No database was touched."


def resolve_prune(run: Run) -> Resolution:
    pruning.forget_deletions(run)
    return Resolution(
        RunStatus.FAILED,
        "The worker was lost while backups were being deleted. What was marked is marked, and "
        "the next pruning goes on.",
    )


def describe_restore(context: RunContext) -> str:
    replaced, made = context.run.result.get("replaced"), context.run.result.get("database")
    if made:
        return f"The new database {made} holds the backup. The live database was not touched."
    if not replaced:
        return "The live database was not touched."
    return f"The restored database is live; the replaced one is kept as {replaced}."


def cleanup(context: RunContext) -> None:
    """Drop the scratch databases of this run. A swapped-in one no longer bears its name."""
    database, run_id = context.dsn.database, context.run.pk
    building.drop_scratch(context, building.built_name(database, run_id))
    building.drop_scratch(
        context, building.proof_name(database, run_id), on=building.scratch_dsn(context)
    )


def settle_server(run: Run) -> list[ReplacedDatabase]:
    """After a lost worker: end its sessions, settle its swap, drop its scratch databases.

    Returns the swaps that happened. Raises AdapterError while its sessions are still there.
    """
    dsn = resolve_dsn(run.target)
    with server.connect(
        dsn, application_name=f"opsconsole:resolve:{run.pk}", database=server.MAINTENANCE_DATABASE
    ) as connection:
        connection.execute("SET lock_timeout = '2s'")
        # The swap's own session is left to complete or reopen: it is done within seconds.
        server.wait_for_sessions_end(connection, f"{server.APPLICATION_PREFIX}{run.pk}:swap", 6)
        left = server.end_sessions(connection, f"{server.APPLICATION_PREFIX}{run.pk}:", seconds=10)
        if left:
            raise AdapterError(f"{len(left)} sessions of the lost run are still on the server")
        happened = []
        for replaced in ReplacedDatabase.objects.filter(run=run):
            with suppress(psycopg.errors.InvalidCatalogName):
                if swapping.reconcile_swap(connection, replaced):
                    happened.append(replaced)
        server.drop_database(connection, building.built_name(dsn.database, run.pk))
        if not run.target.scratch_dsn_encrypted:
            server.drop_database(connection, building.proof_name(dsn.database, run.pk))
    if run.target.scratch_dsn_encrypted:
        _settle_scratch_server(run, building.proof_name(dsn.database, run.pk))
    copies.discard_halves(run)
    return happened


def _settle_scratch_server(run: Run, name: str) -> None:
    """Drop the run's scratch database there. One that cannot be reached holds up nothing."""
    with (
        suppress(AdapterError),
        server.connect(
            resolve_scratch_dsn(run.target),
            application_name=f"opsconsole:resolve:{run.pk}",
            database=server.MAINTENANCE_DATABASE,
        ) as connection,
    ):
        server.drop_database(connection, name)


def _exists(run: Run, database: str) -> bool:
    with server.connect(
        resolve_dsn(run.target),
        application_name=f"opsconsole:resolve:{run.pk}",
        database=server.MAINTENANCE_DATABASE,
    ) as connection:
        return server.database_oid(connection, database) is not None


def resolve_backup(run: Run) -> Resolution:
    settle_server(run)
    backup = run.backups.first()
    if backup and backup.proof >= ProofLevel.RESTORED:
        return Resolution(
            RunStatus.SUCCEEDED, f"The worker was lost after backup {backup.pk} was proven."
        )
    if backup:
        return Resolution(
            RunStatus.FAILED,
            f"The worker was lost before backup {backup.pk} was proven; it stays listed as "
            f"{backup.proof_level.label}.",
        )
    return Resolution(
        RunStatus.FAILED,
        "The worker was lost. No backup was taken; the database was only read.",
    )


def resolve_restore(run: Run) -> Resolution:
    happened = settle_server(run)
    made = run.parameters.get("database")
    if made and _exists(run, made):
        run.result["database"] = made
        return Resolution(
            RunStatus.SUCCEEDED,
            f"The worker was lost after the backup was restored into {made} and compared.",
        )
    if happened:
        run.result["replaced"] = happened[-1].replaced_name
        return Resolution(
            RunStatus.SUCCEEDED,
            "The worker was lost, and the server shows that the restored database is live; "
            f"the replaced one is kept as {happened[-1].replaced_name}.",
        )
    return Resolution(
        RunStatus.FAILED,
        "The worker was lost, and the server shows that the live database was not replaced.",
    )
