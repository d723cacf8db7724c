"""How a lost run on migrations ended, as the server and the tool's history show it."""

from __future__ import annotations

import psycopg

from backups_app.runs.operations import settle_server
from migrations_app.engines import Engine, MigrationState
from migrations_app.engines.applying import drop_invalid_index, has_valid_index
from migrations_app.parameters import MigrateParameters
from migrations_app.reading.observation import observe
from migrations_app.runs import steps
from migrations_app.runs.results import FailedScript, Landed, MigrateResult
from migrations_app.runs.ways_back import ways_of, writes_since
from migrations_app.sources.folders import engine_for
from opsconsole.environments.migration_status import MigrationStatus
from opsconsole.environments.secrets import resolve_dsn
from opsconsole.health.services import check_target
from opsconsole.health.step import failing
from opsconsole.runs.choices import RunStatus, StepStatus
from opsconsole.runs.models import Run
from opsconsole.runs.operation import LostRun, Resolution
from opsconsole.sentences import Sentence, say
from opsconsole.targets import server

LostMigrate = LostRun[MigrateParameters, MigrateResult]


def resolve_migrate(lost: LostMigrate) -> Resolution:
    """Read from the server how a lost migrate run ended. Runs on a worker; re-runs nothing."""
    run = lost.run
    happened = settle_server(run)
    if happened:
        lost.result.replaced = happened[-1].replaced_name
        return Resolution(
            RunStatus.ROLLED_BACK,
            say(
                "The run was lost. The server shows that the backup is live again; the migrated "
                "database is kept as %(replaced)s.",
                replaced=happened[-1].replaced_name,
            ),
        )
    dsn = resolve_dsn(run.target)
    commit = run.plan.content.get("commit", "") if run.plan else ""
    engine = engine_for(run.environment, dsn, commit)
    with server.connect(dsn, application_name=f"opsconsole:resolve:{run.pk}") as connection:
        states = {s.name: s for s in observe(engine, connection, dsn).states}
        names = run.plan.names if run.plan else []
        lost.result.applied = [
            n for n in names if n in states and states[n].state is MigrationStatus.APPLIED
        ]
        stuck = next(
            (states[n] for n in names if n in states and states[n].state is MigrationStatus.FAILED),
            None,
        )
        if stuck:
            resolution = _resolve_interrupted(lost, connection, engine, stuck)
        else:
            unknown = None if engine.records_starts else _may_have_begun(lost, states, names)
            resolution = unknown or _resolve_between(lost, connection, names)
        return _with_health(lost, connection, resolution)


def _with_health(
    lost: LostMigrate, connection: psycopg.Connection, resolution: Resolution
) -> Resolution:
    """The same; where a part of the plan landed and health is failing, a person decides."""
    run, result = lost.run, lost.result
    if resolution.status is not RunStatus.FAILED or not (result.applied or result.landed):
        return resolution
    problem = failing(check_target(run.target, run=run, phase="after"))
    if not problem:
        return resolution
    _offer_ways(lost, connection)
    return Resolution(
        RunStatus.NEEDS_ATTENTION,
        say(
            "Health is failing (%(problem)s) with the part of the plan that is in the database. "
            "%(summary)s",
            problem=problem,
            summary=resolution.summary,
        ),
    )


def _offer_ways(lost: LostMigrate, connection: psycopg.Connection) -> None:
    """What a person can choose, whatever of the plan landed."""
    backup, result = lost.run.backups.first(), lost.result
    if backup and result.own_writes is not None:
        result.writes_since_backup = writes_since(connection, backup, result.own_writes)
    result.ways = ways_of(backup, result)


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
            "The run was lost, and %(file)s may have begun: it is not atomic, and the history of "
            "its tool does not say. %(before)s",
            file=following.file,
            before=lost.result.applied_before,
        ),
    )


def resolved_by_history(run: Run, name: str) -> Resolution:
    settle_server(run)
    dsn = resolve_dsn(run.target)
    engine = engine_for(run.environment, dsn)
    with server.connect(dsn, application_name=f"opsconsole:resolve:{run.pk}") as connection:
        states = observe(engine, connection, dsn).states
    state = next((s.state for s in states if s.name == name), MigrationStatus.PENDING)
    return Resolution(
        RunStatus.FAILED if state is MigrationStatus.FAILED else RunStatus.SUCCEEDED,
        say(
            "The run was lost. The history shows %(name)s as %(state)s.",
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
                "The run was lost during %(name)s, whose file is gone. %(before)s",
                name=stuck.name,
                before=before,
            ),
        )
    if script.is_atomic:
        landed, text = [], rolled_back(script.file)
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
                "The run was lost during %(file)s, which is not atomic: how far it came cannot be "
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
        reason="the run was lost",
        is_atomic=script.is_atomic,
    )
    engine.note_interrupted(connection, stuck.name, f"The run was lost. {text}")
    return Resolution(
        RunStatus.FAILED, say("The run was lost. %(text)s %(before)s", text=text, before=before)
    )


def _resolve_between(
    lost: LostMigrate, connection: psycopg.Connection, names: list[str]
) -> Resolution:
    """No script was under way: none, some or all of the plan are applied."""
    run, applied = lost.run, lost.result.applied
    if not applied:
        return Resolution(RunStatus.FAILED, say("The run was lost before anything was changed."))
    if len(applied) < len(names):
        return Resolution(
            RunStatus.FAILED,
            say(
                "The run was lost between two migrations. %(before)s",
                before=lost.result.applied_before,
            ),
        )
    problem = failing(check_target(run.target, run=run, phase="after"))
    if not problem:
        return Resolution(
            RunStatus.SUCCEEDED,
            say(
                "The run was lost after the last migration. The history equals the plan and health is "
                "good.",
            ),
        )
    _offer_ways(lost, connection)
    return Resolution(
        RunStatus.NEEDS_ATTENTION,
        say(
            "The run was lost after the last migration, and health is failing: %(problem)s.",
            problem=problem,
        ),
    )


def rolled_back(file: str) -> Sentence:
    return say("PostgreSQL rolled %(file)s back: it left nothing.", file=file)
