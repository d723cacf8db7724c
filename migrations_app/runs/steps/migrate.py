"""The steps of a migrate run."""

from __future__ import annotations

import re
import time

import psycopg
from django.conf import settings
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop, ngettext

from backups_app.runs import building, swapping, taking
from backups_app.runs.results import WithReplaced
from backups_app.runs.taking import BACKUP
from migrations_app.engines import (
    Engine,
    MigrationScript,
    ScriptFailed,
    ScriptUnknown,
)
from migrations_app.engines.kinds import Limits, Outcome
from migrations_app.engines.statements import changed_tables
from migrations_app.reading import drift
from migrations_app.reading.observation import Observation, observe, plan_changes
from migrations_app.runs.lock_watch import Watch
from migrations_app.runs.results import FailedScript, Landed, MigrateResult, WithSchema
from migrations_app.runs.work_session import PART, WorkSession
from migrations_app.services.findings import stopping
from migrations_app.sources.folders import engine_for
from opsconsole.environments.migration_status import MigrationStatus
from opsconsole.environments.models import Environment, Target
from opsconsole.environments.obstacles import Need
from opsconsole.environments.survey import tools_for
from opsconsole.exceptions import Cancelled, NeedsAttention, StepFailed
from opsconsole.formats import counted, duration, size
from opsconsole.health.step import UNHEALTHY_BEFORE, check_once, failing
from opsconsole.runs.documents import Parameters
from opsconsole.runs.patience import patiently
from opsconsole.runs.step import Note, Promise, RunContext, Step
from opsconsole.sentences import Text, say, say_count
from opsconsole.targets import activity, content, schema, server
from opsconsole.web.keys import key_from

ENGINE = Note[Engine]("engine")
SCRIPTS = Note[list[MigrationScript]]("scripts to apply")
SCHEMA = Note[dict[str, str]]("schema before")
ROWS = Note[dict[str, int]]("row counts before")
Migrating = RunContext[Parameters, MigrateResult]
BLOCKER_PATIENCE_SECONDS = 10
NAME = r'(?:"(?:[^"]|"")*"|[^\s".:]+)'
TABLE_OR_COLUMN = re.compile(rf"[+~-] (?:table|column) {NAME}\.(?P<table>{NAME})")


def limits_of(environment: Environment) -> Limits:
    return Limits(
        lock_timeout=environment.lock_timeout_seconds * settings.TIME_SCALE,
        lock_patience=environment.lock_patience_seconds,
        blocking=environment.blocking_limit_seconds,
        statement_timeout=environment.statement_timeout_seconds,
        tool_lock_wait=settings.PRISMA_LOCK_WAIT_SECONDS,
    )


class Preflight(Step):
    """Read everything anew; refuse whatever would not end well."""

    name = gettext_noop("preflight")

    def promise(self, target: Target, parameters: Parameters) -> Promise:
        return Promise(
            _("Preflight"),
            _(
                "reads everything again: if the history, the files or the database differ from "
                "what you confirm here, nothing runs"
            ),
        )

    def run(self, context: RunContext) -> Text:
        plan = context.run.plan
        commit = plan.content.get("commit", "") if plan else ""
        engine = engine_for(context.environment, context.dsn, commit)
        context.put(ENGINE, engine)
        if engine.revision:
            context.log(f"preflight: migrations of commit {engine.revision.commit}")
        with context.connect("preflight") as connection:
            self._end_older_sessions(context, connection)
            seen = observe(
                engine, connection, context.dsn, is_protected=context.environment.is_protected
            )
            self._require_confirmed_plan(context, seen)
            building.refuse_obstacles(context, seen.server_read, self._needs(context))
            facts = seen.facts
            if context.environment.takes_backup:
                tools = tools_for(context.dsn, facts.major)
                taking.require_space(context, facts.size_bytes)
                context.log(
                    f"preflight: PostgreSQL {facts.version}, pg_dump {tools.version}, "
                    f"{size(facts.size_bytes)}"
                )
                building.require_scratch(context)
            for role in swapping.sessions_not_ours_to_end(connection, facts.database):
                context.log(
                    f"preflight: a session of {role} is connected, which this role may not end: "
                    "the backup could not be swapped in while it stays",
                    "hm",
                )
            self._wait_for_blockers(context, connection)
        if context.environment.takes_backup:
            for difference in swapping.known_to_stay(context):
                context.log(
                    f"preflight: {difference}. Going back would ask a person to consent to that",
                    "hm",
                )
        context.put(SCRIPTS, seen.pending)
        unhealthy = failing(check_once(context, "before"))
        context.put(UNHEALTHY_BEFORE, unhealthy)
        if unhealthy:
            context.log("preflight: health is already failing before this run", "hm")
        count = len(seen.pending)
        return say_count(
            "%(count)s migration, nothing blocks", "%(count)s migrations, nothing blocks", count
        )

    def _needs(self, context: RunContext) -> set[Need]:
        """With a backup, the way back has to be open too."""
        if context.environment.takes_backup:
            return {Need.MIGRATE, Need.DUMP, Need.EXCHANGE}
        return {Need.MIGRATE}

    def _end_older_sessions(self, context: RunContext, connection: psycopg.Connection) -> None:
        """Sessions of older runs: this run holds the target's lock, so they are leftovers."""
        own = context.session_name().rsplit(":", 1)[0]
        for session in server.sessions(connection, context.dsn.database, "opsconsole:"):
            part = session["application_name"].split(":")
            if key_from(part[1]) and not session["application_name"].startswith(own + ":"):
                server.terminate(connection, session["pid"])
                context.log(f"preflight: ended a leftover session of run {part[1]}", "hm")

    def _require_confirmed_plan(self, context: RunContext, seen: Observation) -> None:
        refusals = seen.refusals + stopping(context.environment.application, seen.migrations)
        if refusals:
            raise StepFailed("; ".join(refusals))
        plan = context.run.plan
        assert plan is not None
        found = seen.plan_content()
        changes = plan_changes(plan.content, found)
        if changes:
            raise StepFailed(
                say(
                    "refused, it changed after it was confirmed: %(changes)s",
                    changes="; ".join(changes),
                )
            )

    def _wait_for_blockers(self, context: RunContext, connection: psycopg.Connection) -> None:
        deadline = time.monotonic() + BLOCKER_PATIENCE_SECONDS * settings.TIME_SCALE
        while found := activity.blockers(connection, context.dsn.database):
            if time.monotonic() > deadline:
                raise StepFailed(
                    say(
                        "%(session)s: a schema change would queue behind it; end it first",
                        session=found[0],
                    )
                )
            context.sleep(0.2)


class Snapshot(Step[Parameters, WithSchema]):
    """What the database is like before: to say afterwards exactly what changed."""

    name = gettext_noop("snapshot")

    def promise(self, target: Target, parameters: Parameters) -> Promise:
        return Promise(
            _("Snapshot"),
            _("keeps the schema and the row counts, to say afterwards exactly what changed"),
        )

    def run(self, context: RunContext[Parameters, WithSchema]) -> Text:
        with context.connect("snapshot") as connection:
            seen = drift.look_at(connection, context.run.target)
            before = seen.objects
            rows = _row_counts(connection)
        patiently(lambda: drift.keep_reading(context.run.target, seen))
        context.put(SCHEMA, before)
        context.put(ROWS, rows)
        context.close_sessions()
        digest = schema.schema_hash(before)
        context.result.schema_before = digest
        tables = say_count("%(count)s table", "%(count)s tables", len(rows))
        context.log(f"snapshot: schema {digest[:4]}…{digest[-4:]}, {tables}")
        found = drift.drift_of(context.run.target)
        if found:
            context.log(f"snapshot: {found.summary}; it stays drift after this run", "hm")
        return tables


def _row_counts(connection: psycopg.Connection) -> dict[str, int]:
    counts = {}
    for space, name in content.list_relations(connection, "r"):
        row = connection.execute(
            psycopg.sql.SQL("SELECT count(*) FROM ONLY {}").format(
                psycopg.sql.Identifier(space, name)
            )
        ).fetchone()
        counts[f"{space}.{name}"] = row[0] if row else 0
    return counts


class Migrate(Step[Parameters, MigrateResult]):
    """Apply the plan, one script after the other, each with its row in the tool's history."""

    name = gettext_noop("migrate")

    def promise(self, target: Target, parameters: Parameters) -> Promise:
        state = target.latest_state
        names = state.pending if state else []
        return Promise(
            _("Migrate"),
            ngettext(
                "applies %(n)d migration; stops waiting for a lock after %(wait)s and retries for "
                "up to %(patience)s",
                "applies %(n)d migrations, one after the other; stops waiting for a lock after "
                "%(wait)s and retries for up to %(patience)s",
                len(names),
            )
            % {
                "n": len(names),
                "wait": duration(target.environment.lock_timeout_seconds),
                "patience": duration(target.environment.lock_patience_seconds),
            },
        )

    def run(self, context: Migrating) -> Text:
        engine, scripts = context.get(ENGINE), context.get(SCRIPTS)
        limits = limits_of(context.environment)
        context.result.begin()
        with context.connect("migrate:lock") as lock:
            engine.take_lock(lock, limits, context.sleep)
            engine.ensure_history(lock)
            names = engine.session_names(context.session_name(PART))
            with (
                WorkSession(context, engine) as session,
                Watch(context, names, limits.blocking, len(scripts)) as watch,
            ):
                for number, script in enumerate(scripts):
                    context.check()
                    self._apply(context, engine, script, session, watch)
                    context.result.applied = [s.name for s in scripts[: number + 1]]
                    context.progress(100 * (number + 1) / len(scripts))
        context.result.migrating = False
        return say("%(scripts)s of %(scripts)s applied", scripts=len(scripts))

    def _apply(
        self,
        context: Migrating,
        engine: Engine,
        script: MigrationScript,
        session: WorkSession,
        watch: Watch,
    ) -> None:
        kind = "atomic" if script.is_atomic else "not atomic"
        statements = counted(len(script.statements), "statement")
        context.log(f"migrate: {script.name} ({kind}, {statements})")
        began = time.monotonic()
        connection = session.ready()
        limits = limits_of(context.environment)
        try:
            with watch.over_next():
                outcome = engine.apply(connection, script, limits, context.log, context.sleep)
        except ScriptFailed as failure:
            if watch.gave_up and not context.is_stopping:
                self._given_up(context, engine, connection, failure, watch.gave_up)
            self._failed(context, engine, connection, failure)
        except ScriptUnknown as unknown:
            self._unknown(context, unknown)
        except Cancelled:
            self._cancelled(context, engine, connection, script, Outcome())
        except psycopg.Error as error:
            outcome = self._from_evidence(context, engine, script, error)
        context.result.add_writes(outcome.rows_written)
        seconds = time.monotonic() - began
        ended = timezone.now().isoformat()
        context.result.timings = (context.result.timings or {}) | {script.name: (ended, seconds)}
        context.log(
            f"  applied in {duration(seconds)}, {counted(outcome.rows_written, 'row')} written",
            "ok",
        )

    def _failed(
        self,
        context: Migrating,
        engine: Engine,
        connection: psycopg.Connection,
        failure: ScriptFailed,
    ) -> None:
        if context.is_stopping:
            self._cancelled(context, engine, connection, failure.script, failure.outcome)
        context.result.add_writes(failure.outcome.rows_written)
        context.result.landed = Landed.each(failure.outcome.landed)
        context.result.failed_script = FailedScript(
            name=failure.script.name,
            file=failure.script.file,
            line=failure.line,
            statement=failure.statement.text,
            reason=failure.reason,
            is_atomic=failure.script.is_atomic,
        )
        context.log(f"  {failure.script.file} line {failure.line}: {failure.statement.shown}", "no")
        raise StepFailed(
            say(
                "%(file)s line %(line)s: %(reason)s.",
                file=failure.script.file,
                line=failure.line,
                reason=failure.reason,
            )
        )

    def _given_up(
        self,
        context: Migrating,
        engine: Engine,
        connection: psycopg.Connection,
        failure: ScriptFailed,
        why: str,
    ) -> None:
        """Sessions of the application waited behind it for too long: they come first."""
        context.log(f"  {why}", "no")
        if failure.outcome.landed:
            failure.reason = why
            return
        engine.note_interrupted(connection, failure.script.name, f"{why}; nothing of it landed.")
        engine.mark_rolled_back(connection, failure.script.name)
        raise StepFailed(
            say(
                "%(file)s line %(line)s: %(why)s. PostgreSQL rolled the file back, it left nothing and "
                "is pending again.",
                file=failure.script.file,
                line=failure.line,
                why=why,
            )
        )

    def _cancelled(
        self,
        context: Migrating,
        engine: Engine,
        connection: psycopg.Connection,
        script: MigrationScript,
        outcome: Outcome,
    ) -> None:
        """An atomic script left nothing: its row says so at once, and it is pending again."""
        context.check_fence()
        if not outcome.landed:
            if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                connection.execute("ROLLBACK")
            engine.note_interrupted(connection, script.name, "Cancelled; nothing of it landed.")
            engine.mark_rolled_back(connection, script.name)
            state = say(
                "%(name)s was rolled back by PostgreSQL and left nothing.", name=script.name
            )
        else:
            lines = ", ".join(str(s.line) for s in outcome.landed)
            state = say(
                "%(file)s: the statements at lines %(lines)s have landed, the rest has not.",
                file=script.file,
                lines=lines,
            )
            engine.note_interrupted(connection, script.name, str(state))
            context.result.landed = Landed.each(outcome.landed)
        raise Cancelled(
            say("%(state)s %(before)s", state=state, before=context.result.applied_before)
        )

    def _unknown(self, context: Migrating, unknown: ScriptUnknown) -> None:
        context.result.add_writes(unknown.outcome.rows_written)
        raise NeedsAttention(
            say(
                "%(unknown)s. Whether this statement took effect cannot be known from the history: "
                "%(shown)s",
                unknown=unknown.text,
                shown=unknown.statement.shown,
            ),
            ways=unknown_ways(unknown.script.name),
        ) from unknown

    def _from_evidence(
        self, context: Migrating, engine: Engine, script: MigrationScript, error: psycopg.Error
    ) -> Outcome:
        """The session was lost, at worst during COMMIT: the history row says which it was."""
        context.check_fence()
        with context.connect("evidence") as connection:
            rows = [r for r in engine.read_history(connection) if r.name == script.name]
            if rows and rows[-1].is_applied:
                context.log("  the session was lost, and the history shows it was applied", "hm")
                return Outcome(list(script.statements))
            reason = server.reason_of(error)
            engine.note_interrupted(connection, script.name, reason)
        statement = script.statements[0]
        failure = ScriptFailed(script, statement.line, statement, reason, Outcome())
        context.log("  the session was lost, and the history shows it was not applied", "no")
        context.result.landed = []
        raise StepFailed(
            say("%(failure)s. PostgreSQL rolled the whole file back.", failure=failure.text)
        ) from error


def unknown_ways(name: str) -> list[dict[str, str]]:
    return [
        {
            "action": "look",
            "title": f"Look whether {name} took effect, then mark it",
            "takes": "a person's look at the data",
            "leaves": "nothing",
        },
    ]


class Verify(Step[Parameters, MigrateResult]):
    """History equals plan; what changed is what the scripts mention; no rows went missing."""

    name = gettext_noop("verify")

    def promise(self, target: Target, parameters: Parameters) -> Promise:
        return Promise(
            _("Verify"),
            _(
                "checks that the history equals the plan, and that only tables which the "
                "migrations mention have changed"
            ),
        )

    def run(self, context: Migrating) -> Text:
        engine = context.get(ENGINE)
        with context.connect("verify") as connection:
            seen = observe(engine, connection, context.dsn)
            after = schema.read_schema(connection)
            invalid = schema.invalid_indexes(connection)
            rows = _row_counts(connection)
        self._history_equals_plan(context, seen)
        if invalid:
            raise StepFailed(
                say("invalid indexes were left behind: %(invalid)s", invalid=", ".join(invalid))
            )
        changes = schema.schema_changes(context.get(SCHEMA), after)
        for line in changes:
            context.log(f"  {line[:300]}")
        context.result.schema_changes = changes
        self._only_mentioned_tables(context, changes)
        self._no_rows_missing(context, rows)
        count = len(changes)
        return say_count(
            "history equals plan, %(count)s schema change",
            "history equals plan, %(count)s schema changes",
            count,
        )

    def _history_equals_plan(self, context: Migrating, seen: Observation) -> None:
        assert context.run.plan is not None
        applied = {s.name for s in seen.states if s.state is MigrationStatus.APPLIED}
        missing = [name for name in context.run.plan.names if name not in applied]
        if missing:
            raise StepFailed(
                say("the history does not show %(missing)s as applied", missing=", ".join(missing))
            )

    def _only_mentioned_tables(self, context: Migrating, changes: list[str]) -> None:
        scripts = context.get(SCRIPTS)
        if any(
            s.kind in {"Do", "Call", "Select", "unparsed"} for x in scripts for s in x.statements
        ):
            return
        # The first migration of a database also makes the tool's own table.
        own = {context.get(ENGINE).history_table}
        mentioned = own.union(*(changed_tables(s.text) for s in scripts))
        for line in changes:
            table = _table_of(line)
            if table and table not in mentioned:
                context.log(f"  not mentioned by any of the migrations: {line}", "hm")
                raise StepFailed(
                    say("%(table)s changed, and no migration of the plan mentions it", table=table)
                )

    def _no_rows_missing(self, context: Migrating, rows: dict[str, int]) -> None:
        """Fewer rows in an untouched table under live writes is a warning, not a failure."""
        for name, before in context.get(ROWS).items():
            after = rows.get(name)
            if after is not None and after < before:
                context.log(f"  {name}: {counted(before - after, 'row')} fewer than before", "hm")


def _table_of(change: str) -> str:
    """The unqualified table of a `schema_changes` line about a table or a column."""
    found = TABLE_OR_COLUMN.match(change)
    return found["table"].strip('"').replace('""', '"') if found else ""


class Rollback(Step[Parameters, WithReplaced]):
    """Build the proven backup beside the migrated database and swap it in.

    `ways` are what a person chooses from when something would be left behind.
    """

    name = gettext_noop("rollback")

    def __init__(self, ways: list[dict[str, str]]) -> None:
        self.ways = ways

    def promise(self, target: Target, parameters: Parameters) -> Promise:
        return Promise(
            _("Roll back"),
            _("restores the backup beside the migrated database and exchanges the two"),
        )

    def run(self, context: RunContext[Parameters, WithReplaced]) -> Text:
        # What failed before the run is in the backup too, and says nothing about the way back.
        context.put(UNHEALTHY_BEFORE, "")
        backup = context.get(BACKUP)
        built = swapping.build_replacement(context, backup)
        accepted = swapping.Accepted.of(context, backup, is_way_back=True)
        try:
            replaced = swapping.swap_in(context, built, accepted)
        except swapping.LeftBehind as error:
            raise NeedsAttention(
                say("%(failure)s. %(why)s", failure=context.failure, why=error.text),
                ways=self.ways,
            ) from error
        return say("replaced database kept as %(replaced)s", replaced=replaced.replaced_name)
