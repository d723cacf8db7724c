"""The operations on backups: what they do, and how their end is read after a lost worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import psycopg
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from typing_extensions import TypeVar

from backups_app import copies
from backups_app.choices import BackupReason, ProofLevel
from backups_app.models import ReplacedDatabase
from backups_app.models.backup import CopyState
from backups_app.parameters import (
    BackupParameters,
    ImportParameters,
    ProveParameters,
    PruneParameters,
    RestoreAsParameters,
    RestoreParameters,
    UndoParameters,
)
from backups_app.runs import (
    building,
    importing,
    pruning,
    quarantine,
    restorable,
    steps,
    swapping,
)
from backups_app.runs.results import (
    PruneResult,
    RestoreAsResult,
    RestoreResult,
    WithBackup,
    WithReplaced,
)
from backups_app.runs.taking import BACKUP
from backups_app.services.policies import TEND
from backups_app.services.restores import restore_gates
from opsconsole.environments.models import Target
from opsconsole.environments.secrets import (
    resolve_dsn,
    resolve_quarantine_dsn,
    resolve_scratch_dsn,
)
from opsconsole.exceptions import AdapterError
from opsconsole.formats import size
from opsconsole.health.services import check_target
from opsconsole.health.step import HealthStep, failing
from opsconsole.runs.choices import RunKind, RunStatus
from opsconsole.runs.documents import Parameters, Result
from opsconsole.runs.gates import Gate
from opsconsole.runs.models import Run
from opsconsole.runs.operation import Asked, LostRun, Operation, Resolution
from opsconsole.runs.registry import PERIODIC, Periodic, register
from opsconsole.runs.step import RunContext, Step
from opsconsole.sentences import Text, say, say_count
from opsconsole.targets import server
from opsconsole.targets.dsn import Dsn

P = TypeVar("P", bound=Parameters)
R = TypeVar("R", bound=Result)
Exchanged = TypeVar("Exchanged", bound=WithReplaced)


def register_all() -> None:
    register(TakeBackup())
    register(Prove())
    register(Import())
    register(Restore())
    register(RestoreAs())
    register(Undo())
    register(Prune())
    PERIODIC.append(Periodic(TEND, "TEND_SECONDS"))


class _WithScratch(Operation[P, R]):
    """One that may build scratch databases."""

    def cleanup(self, context: RunContext[P, R]) -> None:
        drop_scratch_databases(context)


class _Proving(_WithScratch[P, WithBackup]):
    """One whose outcome is a backup, and how far that is proven."""

    action = "run.start"

    def describe(self, context: RunContext[P, WithBackup]) -> Text:
        backup = context.find(BACKUP)
        if backup is None:
            return say("No backup was taken. The database was only read.")
        unknown = backup.copies.filter(state=CopyState.UNREACHABLE).select_related("storage")
        summary = say(
            "Backup %(number)s, %(size)s, %(proof)s.",
            number=backup.pk,
            size=size(backup.size_bytes),
            proof=backup.proof_level.label,
        )
        for copy in unknown:
            summary = say(
                "%(before)s The copy in %(storage)s could not be checked; the proof stays as it was.",
                before=summary,
                storage=copy.storage,
            )
        return summary

    def resolve(self, lost: LostRun[P, WithBackup]) -> Resolution:
        return _resolved_backup(lost.run)


class _Exchanging(_WithScratch[P, Exchanged]):
    """One that puts another database in the place of the live one, and keeps that."""

    kind = RunKind.RESTORE
    action = "restore.start"
    changes_target = True

    def on_failure(self, target: Target, parameters: P) -> str:
        return _(
            "If a step before the swap fails, the live database stays as it is. If health fails "
            "after the swap, nothing is swapped back by itself: Undo brings the replaced database "
            "back."
        )

    def describe(self, context: RunContext[P, Exchanged]) -> Text:
        replaced = context.result.replaced
        if not replaced:
            return say("The live database was not touched.")
        if context.failure:
            return say(
                "The databases were exchanged all the same. Undo exchanges them again: the one that "
                "was live is kept as %(replaced)s.",
                replaced=replaced,
            )
        return say(
            "The restored database is live; the replaced one is kept as %(replaced)s.",
            replaced=replaced,
        )

    def resolve(self, lost: LostRun[P, Exchanged]) -> Resolution:
        happened = settle_server(lost.run)
        if not happened:
            return Resolution(
                RunStatus.FAILED,
                say(
                    "The run was lost, and the server shows that the live database was not replaced."
                ),
            )
        lost.result.replaced = happened[-1].replaced_name
        shown = say(
            "The run was lost, and the server shows that the restored database is live; the "
            "replaced one is kept as %(replaced)s.",
            replaced=happened[-1].replaced_name,
        )
        problem = failing(check_target(lost.run.target, run=lost.run, phase="after"))
        if problem:
            return Resolution(
                RunStatus.FAILED,
                say("Health is failing: %(problem)s. %(shown)s", problem=problem, shown=shown),
            )
        return Resolution(RunStatus.SUCCEEDED, shown)


class TakeBackup(_Proving[BackupParameters]):
    """Take a backup, prove it and copy it where the policy says."""

    Parameters = BackupParameters
    Result = WithBackup
    kind = RunKind.BACKUP

    def steps(
        self, target: Target, parameters: BackupParameters
    ) -> Sequence[Step[BackupParameters, WithBackup]]:
        return [
            steps.BackupPreflight(),
            steps.TakeBackup(parameters.reason),
            steps.ProveBackup(),
            steps.CopyBackup(),
        ]


class Prove(_Proving[ProveParameters]):
    """Prove a backup again, as far as asked."""

    Parameters = ProveParameters
    Result = WithBackup
    kind = RunKind.VERIFY

    def steps(
        self, target: Target, parameters: ProveParameters
    ) -> Sequence[Step[ProveParameters, WithBackup]]:
        return [steps.BackupPreflight(), steps.ProveAgain()]


class Import(_WithScratch[ImportParameters, WithBackup]):
    """Take in an archive that was made elsewhere, and prove it."""

    Parameters = ImportParameters
    Result = WithBackup
    kind = RunKind.IMPORT
    action = "backup.import"

    def title(self, where: str, parameters: ImportParameters) -> str:
        return _("Import a backup of %(where)s") % {"where": where}

    def steps(
        self, target: Target, parameters: ImportParameters
    ) -> Sequence[Step[ImportParameters, WithBackup]]:
        return [
            steps.ImportPreflight(),
            steps.ImportArchive(),
            steps.ReleaseFromQuarantine(),
            steps.CopyBackup(),
        ]

    def describe(self, context: RunContext[ImportParameters, WithBackup]) -> Text:
        backup = context.find(BACKUP)
        if backup is None:
            return say("Nothing was imported. No database was touched.")
        if backup.proof < ProofLevel.RESTORED:
            return say(
                "Backup %(number)s is stored and was not restored yet: it stays in quarantine.",
                number=backup.pk,
            )
        return say(
            "Backup %(number)s, %(size)s, was restored and counted.",
            number=backup.pk,
            size=size(backup.size_bytes),
        )

    def resolve(self, lost: LostRun[ImportParameters, WithBackup]) -> Resolution:
        importing.discard_upload(lost.parameters)
        return _resolved_backup(lost.run)

    def cleanup(self, context: RunContext[ImportParameters, WithBackup]) -> None:
        importing.discard_upload(context.parameters)
        super().cleanup(context)


class Restore(_Exchanging[RestoreParameters, RestoreResult]):
    """Build a backup beside the live database, exchange the two, and keep the replaced one."""

    Parameters = RestoreParameters
    Result = RestoreResult

    def title(self, where: str, parameters: RestoreParameters) -> str:
        return _("Restore %(where)s from backup %(backup)s") % {
            "where": where,
            "backup": parameters.backup,
        }

    def gates(self, asked: Asked[RestoreParameters]) -> list[Gate]:
        return restore_gates(asked.parameters.backup, asked.target.environment, asked.requester)

    def steps(
        self, target: Target, parameters: RestoreParameters
    ) -> Sequence[Step[RestoreParameters, RestoreResult]]:
        first: list[Step[RestoreParameters, RestoreResult]] = []
        if parameters.backs_up_first:
            first = [steps.TakeProvenBackup(BackupReason.BEFORE_RESTORE)]
        return [
            steps.ExchangePreflight(),
            *first,
            steps.BuildReplacement(),
            steps.SwapIn(),
            HealthStep("after"),
        ]


class RestoreAs(_WithScratch[RestoreAsParameters, RestoreAsResult]):
    """Restore a backup into a new database of the environment's server; nothing is replaced."""

    Parameters = RestoreAsParameters
    Result = RestoreAsResult
    kind = RunKind.RESTORE
    action = "restore.start"
    changes_target = True

    def title(self, where: str, parameters: RestoreAsParameters) -> str:
        return _("Restore backup %(backup)s of %(where)s as %(database)s") % {
            "where": where,
            "backup": parameters.backup,
            "database": parameters.database,
        }

    def gates(self, asked: Asked[RestoreAsParameters]) -> list[Gate]:
        return restore_gates(asked.parameters.backup, asked.target.environment, asked.requester)

    def steps(
        self, target: Target, parameters: RestoreAsParameters
    ) -> Sequence[Step[RestoreAsParameters, RestoreAsResult]]:
        return [steps.RestorePreflight(), steps.BuildNewDatabase()]

    def describe(self, context: RunContext[RestoreAsParameters, RestoreAsResult]) -> Text:
        made = context.result.database
        if not made:
            return say("The live database was not touched.")
        return say(
            "The new database %(made)s holds the backup. The live database was not touched.",
            made=made,
        )

    def resolve(self, lost: LostRun[RestoreAsParameters, RestoreAsResult]) -> Resolution:
        settle_server(lost.run)
        made = lost.parameters.database
        if not _exists(lost.run, made):
            return Resolution(
                RunStatus.FAILED,
                say(
                    "The run was lost, and the server shows that the new database %(made)s was "
                    "not made. The live database was not touched.",
                    made=made,
                ),
            )
        lost.result.database = made
        return Resolution(
            RunStatus.SUCCEEDED,
            say(
                "The run was lost after the backup was restored into %(made)s and compared.",
                made=made,
            ),
        )


class Undo(_Exchanging[UndoParameters, WithReplaced]):
    """Exchange the live database with one that a restore replaced; both stay."""

    Parameters = UndoParameters
    Result = WithReplaced

    def title(self, where: str, parameters: UndoParameters) -> str:
        return _("Undo the restore of %(where)s") % {"where": where}

    def steps(
        self, target: Target, parameters: UndoParameters
    ) -> Sequence[Step[UndoParameters, WithReplaced]]:
        return [steps.UndoPreflight(), steps.SwapBack(), HealthStep("after")]


class Prune(Operation[PruneParameters, PruneResult]):
    """Mark what the policy no longer keeps, and delete what was marked long enough."""

    Parameters = PruneParameters
    Result = PruneResult
    kind = RunKind.PRUNE
    action = "backup.prune"

    def steps(
        self, target: Target, parameters: PruneParameters
    ) -> Sequence[Step[PruneParameters, PruneResult]]:
        return [pruning.MarkExpired(), pruning.DeleteExpired()]

    def describe(self, context: RunContext[PruneParameters, PruneResult]) -> Text:
        return say_count(
            "%(count)s backup deleted. No database was touched.",
            "%(count)s backups deleted. No database was touched.",
            context.result.deleted,
        )

    def resolve(self, lost: LostRun[PruneParameters, PruneResult]) -> Resolution:
        pruning.forget_deletions(lost.run)
        return Resolution(
            RunStatus.FAILED,
            say(
                "The run was lost while backups were being deleted. What was marked is marked, and "
                "the next pruning goes on.",
            ),
        )


def drop_scratch_databases(context: RunContext) -> None:
    """Drop the scratch databases of this run. A swapped-in one no longer bears its name."""
    database, run_id = context.dsn.database, context.run.pk
    building.drop_scratch(
        context,
        building.built_name(database, run_id),
        restorable.trial_name(database, run_id),
    )
    building.drop_scratch(
        context, building.proof_name(database, run_id), on=building.scratch_dsn(context)
    )
    if quarantine.may_hold_work_of(context.run):
        _drop_elsewhere(
            context.run, resolve_quarantine_dsn, building.quarantined_name(database, run_id)
        )


def settle_server(run: Run) -> list[ReplacedDatabase]:
    """After a lost worker: end its sessions, settle its swap, drop its scratch databases.

    Returns the swaps that happened. Raises AdapterError while its sessions are still there.
    """
    dsn = resolve_dsn(run.target)
    with server.connect(
        dsn, application_name=f"opsconsole:resolve:{run.pk}", database=dsn.maintenance_database
    ) as connection:
        connection.execute("SET lock_timeout = '2s'")
        # The swap's own session is left to complete or reopen: it is done within seconds.
        server.wait_for_sessions_end(connection, f"{server.APPLICATION_PREFIX}{run.pk}:swap", 6)
        left = server.end_sessions(connection, f"{server.APPLICATION_PREFIX}{run.pk}:", seconds=10)
        if left:
            raise AdapterError(
                ngettext(
                    "%(n)d session of the lost run is still on the server",
                    "%(n)d sessions of the lost run are still on the server",
                    len(left),
                )
                % {"n": len(left)}
            )
        happened = []
        for replaced in ReplacedDatabase.objects.filter(run=run):
            with suppress(psycopg.errors.InvalidCatalogName):
                if swapping.reconcile_swap(connection, replaced):
                    swapping.record_exchange(replaced)
                    happened.append(replaced)
        server.drop_database(connection, building.built_name(dsn.database, run.pk))
        server.drop_database(connection, restorable.trial_name(dsn.database, run.pk))
        if not run.target.scratch_dsn_encrypted:
            server.drop_database(connection, building.proof_name(dsn.database, run.pk))
    if run.target.scratch_dsn_encrypted:
        _drop_elsewhere(run, resolve_scratch_dsn, building.proof_name(dsn.database, run.pk))
    if quarantine.may_hold_work_of(run):
        _drop_elsewhere(
            run, resolve_quarantine_dsn, building.quarantined_name(dsn.database, run.pk)
        )
    copies.discard_halves(run)
    return happened


def _drop_elsewhere(run: Run, resolve: Callable[[Target], Dsn], name: str) -> None:
    """Drop a database of the run there. A server that cannot be reached holds up nothing."""
    with suppress(AdapterError):
        place = resolve(run.target)
        with server.connect(
            place,
            application_name=f"opsconsole:resolve:{run.pk}",
            database=place.maintenance_database,
        ) as connection:
            server.drop_database(connection, name)


def _exists(run: Run, database: str) -> bool:
    dsn = resolve_dsn(run.target)
    with server.connect(
        dsn, application_name=f"opsconsole:resolve:{run.pk}", database=dsn.maintenance_database
    ) as connection:
        return server.database_oid(connection, database) is not None


def _resolved_backup(run: Run) -> Resolution:
    settle_server(run)
    backup = run.backups.first()
    if backup and backup.proof >= ProofLevel.RESTORED:
        return Resolution(
            RunStatus.SUCCEEDED,
            say("The run was lost after backup %(number)s was proven.", number=backup.pk),
        )
    if backup:
        return Resolution(
            RunStatus.FAILED,
            say(
                "The run was lost before backup %(number)s was proven; it stays listed as %(label)s.",
                number=backup.pk,
                label=backup.proof_level.label,
            ),
        )
    return Resolution(
        RunStatus.FAILED,
        say("The run was lost. No backup was taken; the database was only read."),
    )
