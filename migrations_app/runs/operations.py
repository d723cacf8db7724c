"""The operations on migrations: what they do, their way back, and how a lost one ended."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from django.utils.translation import gettext as _

from backups_app.choices import BackupReason
from backups_app.models import Backup
from backups_app.runs.operations import drop_scratch_databases, settle_server
from backups_app.runs.results import WithBackup
from backups_app.runs.steps import TakeProvenBackup
from backups_app.runs.taking import BACKUP
from migrations_app.engines import Engine, MigrationState
from migrations_app.engines.applying import drop_invalid_index, has_valid_index
from migrations_app.parameters import (
    AdoptDriftParameters,
    EndSessionParameters,
    FinishParameters,
    MigrateParameters,
    ResolveParameters,
)
from migrations_app.reading.drift import settle_after_run
from migrations_app.reading.observation import observe, observe_target
from migrations_app.runs import steps
from migrations_app.runs.results import FailedScript, FinishResult, Landed, MigrateResult
from migrations_app.services.drift import CHECK_DRIFT
from migrations_app.services.migrations import OBSERVE, confirmation_gates, plan_gates
from migrations_app.sources.folders import engine_for
from opsconsole.environments.choices import AutoRollback
from opsconsole.environments.migration_status import MigrationStatus
from opsconsole.environments.models import Environment, Target
from opsconsole.environments.secrets import resolve_dsn
from opsconsole.exceptions import NeedsAttention
from opsconsole.formats import counted, duration
from opsconsole.health.services import check_target
from opsconsole.health.step import HealthStep, failing
from opsconsole.runs import registry
from opsconsole.runs.choices import RunKind, RunStatus, StepStatus
from opsconsole.runs.documents import Parameters, Result
from opsconsole.runs.gates import Gate
from opsconsole.runs.models import Run
from opsconsole.runs.operation import Asked, LostRun, Operation, P, R, Resolution
from opsconsole.runs.registry import Periodic, register
from opsconsole.runs.step import Promise, RunContext, Step
from opsconsole.sentences import Sentence, Text, say, say_count
from opsconsole.targets import activity, server

Migrating = RunContext[MigrateParameters, MigrateResult]
MigrateSteps = Sequence[Step[MigrateParameters, MigrateResult]]
LostMigrate = LostRun[MigrateParameters, MigrateResult]
ONLY_HISTORY = "Only the history of migrations was changed."


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
        return _resolved_by_history(lost.run, lost.parameters.migration)


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
        return _resolved_by_history(lost.run, lost.parameters.migration)

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
        return Resolution(RunStatus.FAILED, say("The worker was lost. Nothing was changed."))


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
                "The worker was lost. The schema was not changed; whether the history was, the "
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
    return _rolled_back(failed.file)


def _rolled_back(file: str) -> Sentence:
    return say("PostgreSQL rolled %(file)s back: it left nothing.", file=file)


def way_back(context: Migrating) -> MigrateSteps:
    """Steps that go back by themselves; none when nothing was applied by then.

    Raises NeedsAttention when a person has to choose.
    """
    result = context.result
    if result.applied is None or result.migrating:
        # Good migrations before the broken file stay: they are in the history.
        return []
    backup = context.find(BACKUP)
    policy = AutoRollback(context.environment.auto_rollback)
    if backup is None:
        raise NeedsAttention(
            say(
                "%(failure)s. All migrations are applied, and no backup was taken before them.",
                failure=context.failure,
            ),
            ways=[keep_way(result.applied)],
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
            ways=[restore_way(backup, written), keep_way(result.applied)],
        )
    return [steps.Rollback(), HealthStep("rolled back")]


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


def resolve_migrate(lost: LostMigrate) -> Resolution:
    """Read from the server how a lost migrate run ended. Runs on a worker; re-runs nothing."""
    run = lost.run
    happened = settle_server(run)
    if happened:
        lost.result.replaced = happened[-1].replaced_name
        return Resolution(
            RunStatus.ROLLED_BACK,
            say(
                "The worker was lost. The server shows that the backup is live again; the migrated "
                "database is kept as %(replaced)s.",
                replaced=happened[-1].replaced_name,
            ),
        )
    dsn = resolve_dsn(run.target)
    commit = run.plan.content.get("commit", "") if run.plan else ""
    engine = engine_for(run.environment, dsn, commit)
    with server.connect(dsn, application_name=f"opsconsole:resolve:{run.pk}") as connection:
        states = {s.name: s for s in observe(engine, connection).states}
        names = run.plan.names if run.plan else []
        lost.result.applied = [
            n for n in names if n in states and states[n].state is MigrationStatus.APPLIED
        ]
        stuck = next(
            (states[n] for n in names if n in states and states[n].state is MigrationStatus.FAILED),
            None,
        )
        if stuck:
            return _resolve_interrupted(lost, connection, engine, stuck)
        unknown = None if engine.records_starts else _may_have_begun(lost, states, names)
        return unknown or _resolve_between(lost, connection, names)


def _may_have_begun(
    lost: LostMigrate, states: dict[str, MigrationState], names: list[str]
) -> Resolution | None:
    """Where the history says nothing before the end, a script that is not atomic may have begun."""
    if not lost.run.steps.filter(name="migrate").exclude(status=StepStatus.PENDING).exists():
        return None
    following = next(
        (
            states[n].script
            for n in names
            if n in states and states[n].state is not MigrationStatus.APPLIED
        ),
        None,
    )
    if following is None or following.is_atomic:
        return None
    lost.result.ways = steps.unknown_ways(following.name)
    return Resolution(
        RunStatus.NEEDS_ATTENTION,
        say(
            "The worker was lost, and %(file)s may have begun: it is not atomic, and the history of "
            "its tool does not say. %(before)s",
            file=following.file,
            before=lost.result.applied_before,
        ),
    )


def _resolved_by_history(run: Run, name: str) -> Resolution:
    settle_server(run)
    dsn = resolve_dsn(run.target)
    engine = engine_for(run.environment, dsn)
    with server.connect(dsn, application_name=f"opsconsole:resolve:{run.pk}") as connection:
        states = observe(engine, connection).states
    state = next((s.state for s in states if s.name == name), MigrationStatus.PENDING)
    return Resolution(
        RunStatus.FAILED if state is MigrationStatus.FAILED else RunStatus.SUCCEEDED,
        say(
            "The worker was lost. The history shows %(name)s as %(state)s.",
            name=name,
            state=Sentence(state.word),
        ),
    )


def _resolve_interrupted(
    lost: LostMigrate, connection: psycopg.Connection, engine: Engine, stuck: MigrationState
) -> Resolution:
    """A script was under way. What it left follows from whether it is atomic."""
    script = stuck.script
    before = lost.result.applied_before
    if script is None:
        return Resolution(
            RunStatus.NEEDS_ATTENTION,
            say(
                "The worker was lost during %(name)s, whose file is gone. %(before)s",
                name=stuck.name,
                before=before,
            ),
        )
    if script.is_atomic:
        landed, text = [], _rolled_back(script.file)
    elif [s.concurrent_index for s in script.statements] != [""] and len(script.statements) == 1:
        index = script.statements[0].concurrent_index
        if has_valid_index(connection, index):
            landed = list(script.statements)
            text = say(
                "The index %(index)s is there and valid: mark %(name)s applied.",
                index=index,
                name=stuck.name,
            )
        else:
            dropped = drop_invalid_index(connection, index)
            landed = []
            text = (
                say("%(file)s left an invalid index, now dropped.", file=script.file)
                if dropped
                else say("%(file)s left nothing.", file=script.file)
            )
    else:
        lost.result.ways = steps.unknown_ways(stuck.name)
        return Resolution(
            RunStatus.NEEDS_ATTENTION,
            say(
                "The worker was lost during %(file)s, which is not atomic: how far it came cannot be "
                "known from the history. %(before)s",
                file=script.file,
                before=before,
            ),
        )
    lost.result.landed = Landed.each(landed)
    lost.result.failed_script = FailedScript(
        name=stuck.name,
        file=script.file,
        line=script.statements[0].line,
        statement=script.statements[0].text,
        reason="the worker was lost",
        is_atomic=script.is_atomic,
    )
    engine.note_interrupted(connection, stuck.name, f"The worker was lost. {text}")
    return Resolution(
        RunStatus.FAILED, say("The worker was lost. %(text)s %(before)s", text=text, before=before)
    )


def _resolve_between(
    lost: LostMigrate, connection: psycopg.Connection, names: list[str]
) -> Resolution:
    """No script was under way: none, some or all of the plan are applied."""
    run, applied = lost.run, lost.result.applied
    if not applied:
        return Resolution(RunStatus.FAILED, say("The worker was lost before anything was changed."))
    if len(applied) < len(names):
        return Resolution(
            RunStatus.FAILED,
            say(
                "The worker was lost between two migrations. %(before)s",
                before=lost.result.applied_before,
            ),
        )
    problem = failing(check_target(run.target, run=run, phase="after"))
    if not problem:
        return Resolution(
            RunStatus.SUCCEEDED,
            say(
                "The worker was lost after the last migration. The history equals the plan and health is "
                "good.",
            ),
        )
    backup = run.backups.first()
    written = None
    if backup and lost.result.own_writes is not None:
        written = writes_since(connection, backup, lost.result.own_writes)
    lost.result.ways = [
        *([restore_way(backup, written)] if backup else []),
        keep_way(applied),
    ]
    return Resolution(
        RunStatus.NEEDS_ATTENTION,
        say(
            "The worker was lost after the last migration, and health is failing: %(problem)s.",
            problem=problem,
        ),
    )
