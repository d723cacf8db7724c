"""The operations on migrations: what they do, and in which order."""

from __future__ import annotations

from collections.abc import Sequence

from django.utils.translation import gettext as _

from backups_app.choices import BackupReason
from backups_app.runs.operations import drop_scratch_databases, settle_server
from backups_app.runs.results import WithBackup
from backups_app.runs.steps import TakeProvenBackup
from migrations_app.parameters import (
    AdoptDriftParameters,
    EndSessionParameters,
    FinishParameters,
    MigrateParameters,
    ResolveParameters,
)
from migrations_app.reading.drift import settle_after_run
from migrations_app.reading.observation import observe_target
from migrations_app.runs import steps
from migrations_app.runs.resolving import (
    LostMigrate,
    resolve_migrate,
    resolved_by_history,
    rolled_back,
)
from migrations_app.runs.results import FinishResult, MigrateResult
from migrations_app.runs.ways_back import MigrateSteps, Migrating, way_back
from migrations_app.services.drift import CHECK_DRIFT
from migrations_app.services.migrations import OBSERVE, confirmation_gates, plan_gates
from opsconsole.environments.choices import AutoRollback
from opsconsole.environments.models import Environment, Target
from opsconsole.health.step import HealthStep
from opsconsole.runs import registry
from opsconsole.runs.choices import RunKind, RunStatus
from opsconsole.runs.documents import Parameters, Result
from opsconsole.runs.gates import Gate
from opsconsole.runs.operation import Asked, LostRun, Operation, P, R, Resolution
from opsconsole.runs.registry import Periodic, register
from opsconsole.runs.step import Promise, RunContext, Step
from opsconsole.sentences import Sentence, Text, say

ONLY_HISTORY = say("Only the history of migrations was changed.")


def register_all() -> None:
    register(Migrate())
    register(Resolve())
    register(Finish())
    register(EndSession())
    register(AdoptDrift())
    registry.STATE_READERS.append(lambda run: observe_target(run.target))
    registry.STATE_READERS.append(settle_after_run)
    registry.PERIODIC.append(Periodic(OBSERVE, "OBSERVE_SECONDS"))
    registry.PERIODIC.append(Periodic(CHECK_DRIFT, "DRIFT_SECONDS"))


class Migrate(Operation[MigrateParameters, MigrateResult]):
    """Apply the plan that was confirmed, behind a proven backup."""

    Parameters = MigrateParameters
    Result = MigrateResult
    kind = RunKind.MIGRATE
    action = "run.start"
    changes_target = True

    def steps(self, target: Target, parameters: MigrateParameters) -> MigrateSteps:
        return [
            steps.Preflight(),
            *backup_first(target.environment),
            steps.Snapshot(),
            steps.Migrate(),
            steps.Verify(),
            HealthStep("after"),
        ]

    def gates(self, asked: Asked[MigrateParameters]) -> list[Gate]:
        return [
            *plan_gates(asked.target),
            *confirmation_gates(asked.target, asked.plan, asked.parameters.checklist),
        ]

    def promises(self, target: Target, parameters: MigrateParameters) -> list[Promise]:
        preflight, *rest = super().promises(target, parameters)
        if target.environment.takes_backup:
            return [preflight, *rest]
        why = _("the policy skips it: you will not be able to roll back by restoring")
        return [preflight, Promise(_("No backup"), why), *rest]

    def on_failure(self, target: Target, parameters: MigrateParameters) -> str:
        if not target.environment.takes_backup:
            return _("If a later check fails, a person decides: there is no backup to restore.")
        return {
            AutoRollback.NO_WRITES: _(
                "If a later check fails and no one else has written since the backup, the backup "
                "is restored and the migrated database is kept. Otherwise a person decides."
            ),
            AutoRollback.ALWAYS: _(
                "If a later check fails, the backup is restored. The migrated database is kept, "
                "with everything written since the backup."
            ),
            AutoRollback.NEVER: _(
                "If a later check fails, a person decides whether the backup is restored."
            ),
        }[AutoRollback(target.environment.auto_rollback)]

    def way_back(self, context: Migrating) -> MigrateSteps:
        return way_back(context)

    def describe(self, context: Migrating) -> Text:
        result = context.result
        if result.replaced:
            return say(
                "The backup taken before the migration is live again; the migrated database is kept as "
                "%(replaced)s.",
                replaced=result.replaced,
            )
        if result.applied is None:
            return say("Nothing was changed.")
        if result.migrating:
            return say(
                "%(before)s %(landed)s", before=result.applied_before, landed=_landed(result)
            )
        return say("Applied: %(applied)s.", applied=", ".join(result.applied))

    def resolve(self, lost: LostMigrate) -> Resolution:
        return resolve_migrate(lost)

    def cleanup(self, context: Migrating) -> None:
        drop_scratch_databases(context)


class _Repair(Operation[P, R]):
    """One that mends what a person chose; it has no plan."""

    kind = RunKind.MIGRATE
    action = "migration.resolve"
    changes_target = True


class Resolve(_Repair[ResolveParameters]):
    """Mark a failed migration rolled back or applied, in the tool's own history."""

    Parameters = ResolveParameters
    Result = Result

    def title(self, where: str, parameters: ResolveParameters) -> str:
        text = {
            "rolled_back": _("Mark %(name)s rolled back in %(where)s"),
            "applied": _("Mark %(name)s applied in %(where)s"),
        }[parameters.mark]
        return text % {"name": parameters.migration, "where": where}

    def steps(
        self, target: Target, parameters: ResolveParameters
    ) -> Sequence[Step[ResolveParameters]]:
        return [steps.ResolveHistory()]

    def describe(self, context: RunContext[ResolveParameters]) -> Text:
        return ONLY_HISTORY

    def resolve(self, lost: LostRun[ResolveParameters]) -> Resolution:
        return resolved_by_history(lost.run, lost.parameters.migration)


class Finish(_Repair[FinishParameters, FinishResult]):
    """Apply what of a failed migration has not landed, behind a proven backup."""

    Parameters = FinishParameters
    Result = FinishResult

    def title(self, where: str, parameters: FinishParameters) -> str:
        return _("Finish the rest of %(name)s in %(where)s") % {
            "name": parameters.migration,
            "where": where,
        }

    def steps(
        self, target: Target, parameters: FinishParameters
    ) -> Sequence[Step[FinishParameters, FinishResult]]:
        return [*backup_first(target.environment), steps.FinishRest(), HealthStep("after")]

    def describe(self, context: RunContext[FinishParameters, FinishResult]) -> Text:
        name = context.parameters.migration
        if context.failure:
            return say(
                "%(name)s is still failed; what of it is in the database is on its page.", name=name
            )
        return say("%(name)s is complete and marked applied.", name=name)

    def resolve(self, lost: LostRun[FinishParameters, FinishResult]) -> Resolution:
        return resolved_by_history(lost.run, lost.parameters.migration)

    def cleanup(self, context: RunContext[FinishParameters, FinishResult]) -> None:
        drop_scratch_databases(context)


class EndSession(_Repair[EndSessionParameters]):
    """End the session that holds the tool's lock."""

    Parameters = EndSessionParameters
    Result = Result

    def title(self, where: str, parameters: EndSessionParameters) -> str:
        return _("End session %(pid)d in %(where)s") % {"pid": parameters.pid, "where": where}

    def steps(
        self, target: Target, parameters: EndSessionParameters
    ) -> Sequence[Step[EndSessionParameters]]:
        return [steps.EndSession()]

    def describe(self, context: RunContext[EndSessionParameters]) -> Text:
        return say("Nothing in the database was changed.")

    def resolve(self, lost: LostRun[EndSessionParameters]) -> Resolution:
        settle_server(lost.run)
        return Resolution(RunStatus.FAILED, say("The run was lost. Nothing was changed."))


class AdoptDrift(_Repair[AdoptDriftParameters]):
    """Record what has drifted as an applied migration."""

    Parameters = AdoptDriftParameters
    Result = Result

    def title(self, where: str, parameters: AdoptDriftParameters) -> str:
        return _("Adopt drift as %(name)s in %(where)s") % {
            "name": parameters.migration,
            "where": where,
        }

    def steps(
        self, target: Target, parameters: AdoptDriftParameters
    ) -> Sequence[Step[AdoptDriftParameters]]:
        return [steps.AdoptDrift()]

    def describe(self, context: RunContext[AdoptDriftParameters]) -> Text:
        return ONLY_HISTORY

    def resolve(self, lost: LostRun[AdoptDriftParameters]) -> Resolution:
        settle_server(lost.run)
        return Resolution(
            RunStatus.FAILED,
            say(
                "The run was lost. The schema was not changed; whether the history was, the "
                "environment's page says.",
            ),
        )


def backup_first(environment: Environment) -> list[Step[Parameters, WithBackup]]:
    return [TakeProvenBackup(BackupReason.PRE_MIGRATION)] if environment.takes_backup else []


def _landed(result: MigrateResult) -> Sentence:
    failed = result.failed_script
    if not failed:
        return say("Nothing else was changed.")
    if result.landed:
        lines = ", ".join(str(each.line) for each in result.landed)
        return say(
            "Of %(file)s, the statements at lines %(lines)s have landed.",
            file=failed.file,
            lines=lines,
        )
    return rolled_back(failed.file)
