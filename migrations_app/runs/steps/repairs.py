"""The steps of a run that repairs a history, one for each way out of a failed migration."""

from __future__ import annotations

import psycopg
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from migrations_app.engines import Engine, MigrationScript, ScriptFailed
from migrations_app.engines.applying import finish_rest
from migrations_app.engines.evidence import read_evidence
from migrations_app.models import ExpectedSchema, SchemaText, ScriptText
from migrations_app.parameters import (
    AdoptDriftParameters,
    EndSessionParameters,
    FinishParameters,
    ResolveParameters,
)
from migrations_app.reading.drift import expect, keep_reading, look_at
from migrations_app.runs.lock_watch import Watch
from migrations_app.runs.results import WithSchema
from migrations_app.runs.steps.migrate import limits_of
from migrations_app.sources.folders import engine_for
from opsconsole.environments.models import Target
from opsconsole.exceptions import AdapterError, StepFailed
from opsconsole.runs.patience import patiently
from opsconsole.runs.step import Promise, RunContext, Step
from opsconsole.sentences import Text, say, say_count
from opsconsole.targets import schema, server

END_SECONDS = 10


class ResolveHistory(Step[ResolveParameters]):
    """Mark a failed migration rolled back or applied in the tool's own history."""

    name = gettext_noop("resolve")

    def promise(self, target: Target, parameters: ResolveParameters) -> Promise:
        word = {"rolled_back": _("rolled back"), "applied": _("applied")}[parameters.mark]
        return Promise(
            _("Mark"),
            _("marks %(name)s %(word)s in the history of migrations; nothing else is changed")
            % {"name": parameters.migration, "word": word},
        )

    def run(self, context: RunContext[ResolveParameters]) -> Text:
        name, mark = context.parameters.migration, context.parameters.mark
        engine = engine_for(context.environment, context.dsn)
        with context.connect("resolve") as connection:
            engine.take_lock(connection, limits_of(context.environment), context.sleep)
            if mark == "rolled_back":
                engine.mark_rolled_back(connection, name)
            else:
                engine.mark_applied(connection, _script(engine, name))
        context.log(f"resolve: {name} is marked {mark.replace('_', ' ')}", "ok")
        if mark == "rolled_back":
            return say("%(name)s marked rolled back", name=name)
        return say("%(name)s marked applied", name=name)


class FinishRest(Step[FinishParameters, WithSchema]):
    """Apply the statements of a failed migration that have not landed, and record it as applied.

    Refused when the file or what has landed is no longer what was shown and confirmed.
    """

    name = gettext_noop("finish")

    def promise(self, target: Target, parameters: FinishParameters) -> Promise:
        return Promise(
            _("Finish"),
            _(
                "applies what of %(name)s is not in the database yet, and marks it applied; if "
                "its file or the database differ from what was shown, nothing runs"
            )
            % {"name": parameters.migration},
        )

    def run(self, context: RunContext[FinishParameters, WithSchema]) -> Text:
        asked = context.parameters
        engine = engine_for(context.environment, context.dsn)
        script = _script(engine, asked.migration)
        limits = limits_of(context.environment)
        # Kept before the tool's lock is taken: nothing is written to the console under it.
        with context.connect("finish") as connection:
            seen = look_at(connection, context.run.target)
        before = patiently(lambda: keep_reading(context.run.target, seen))
        with context.connect("resolve:lock") as lock, context.connect("migrate") as connection:
            engine.take_lock(lock, limits, context.sleep)
            self._require_unchanged(context, engine, connection, script)
            context.result.schema_before = before.schema_id
            rest = script.statements[asked.landed :]
            for statement in rest:
                context.log(f"finish: {script.file} line {statement.line}: {statement.shown}")
            names = [context.session_name("migrate")]
            try:
                with Watch(context, names, limits.blocking) as watch, watch.over_next():
                    finish_rest(
                        engine,
                        connection,
                        script,
                        asked.landed,
                        limits,
                        context.log,
                        context.sleep,
                    )
            except ScriptFailed as failure:
                context.check()
                lines = ", ".join(str(s.line) for s in failure.outcome.landed) or "none"
                why = watch.gave_up or failure.reason
                raise StepFailed(
                    say(
                        "%(file)s line %(line)s: %(why)s. Of the rest, landed at lines: %(lines)s",
                        file=script.file,
                        line=failure.line,
                        why=why,
                        lines=lines,
                    )
                ) from failure
        return say_count(
            "%(count)s statement applied, %(name)s marked applied",
            "%(count)s statements applied, %(name)s marked applied",
            len(rest),
            name=script.name,
        )

    def _require_unchanged(
        self,
        context: RunContext[FinishParameters],
        engine: Engine,
        connection: psycopg.Connection,
        script: MigrationScript,
    ) -> None:
        asked = context.parameters
        if script.checksum != asked.checksum:
            raise StepFailed(say("%(file)s was changed since it was shown", file=script.file))
        evidence = read_evidence(connection, script.statements, engine.schema)
        if not evidence.fits(asked.landed):
            raise StepFailed(
                say_count(
                    "the first %(count)s statement of %(file)s had landed when this was shown, and the "
                    "catalogue shows something else now",
                    "the first %(count)s statements of %(file)s had landed when this was shown, and "
                    "the catalogue shows something else now",
                    asked.landed,
                    file=script.file,
                )
            )


class EndSession(Step[EndSessionParameters]):
    """End the one session that was shown to hold the tool's lock."""

    name = gettext_noop("end session")

    def promise(self, target: Target, parameters: EndSessionParameters) -> Promise:
        return Promise(
            _("End session"),
            _("ends process %(pid)d of %(user)s if it still holds the lock")
            % {"pid": parameters.pid, "user": parameters.user},
        )

    def run(self, context: RunContext[EndSessionParameters]) -> Text:
        asked = context.parameters
        engine = engine_for(context.environment, context.dsn)
        with context.connect("end-session") as connection:
            holder = server.read_facts(connection, engine.advisory_lock).lock_holder
            if holder is None:
                return say("it had ended by itself")
            if (holder["pid"], holder["since"]) != (asked.pid, asked.since):
                raise StepFailed(say("another session holds the lock now: look again"))
            server.terminate(connection, holder["pid"])
            self._wait_for_its_end(context, connection, engine, holder["pid"])
        context.log(f"end session: process {asked.pid} of {asked.user} was ended", "ok")
        return say("process %(pid)s ended", pid=asked.pid)

    def _wait_for_its_end(
        self, context: RunContext, connection: psycopg.Connection, engine: Engine, pid: int
    ) -> None:
        for _attempt in range(END_SECONDS * 10):
            holder = server.read_facts(connection, engine.advisory_lock).lock_holder
            if holder is None or holder["pid"] != pid:
                return
            context.sleep(0.1)
        raise StepFailed(
            say(
                "process %(pid)s is still there: this role may not end it; a superuser can, with SELECT "
                "pg_terminate_backend(%(pid)s)",
                pid=pid,
            )
        )


class AdoptDrift(Step[AdoptDriftParameters]):
    """Record a script as applied whose effect is live already, and expect the schema as it is."""

    name = gettext_noop("adopt")

    def promise(self, target: Target, parameters: AdoptDriftParameters) -> Promise:
        return Promise(
            _("Adopt"),
            _("marks %(name)s applied: what it does is in the database already")
            % {"name": parameters.migration},
        )

    def run(self, context: RunContext[AdoptDriftParameters]) -> Text:
        asked = context.parameters
        engine = engine_for(context.environment, context.dsn)
        text = ScriptText.objects.get(pk=asked.checksum).sql
        with context.connect("adopt") as connection:
            engine.take_lock(connection, limits_of(context.environment), context.sleep)
            objects = schema.read_schema(connection)
            if schema.schema_hash(objects) != asked.shown_schema:
                raise StepFailed(say("the schema was changed since it was shown"))
            engine.ensure_history(connection)
            engine.mark_applied(connection, engine.script_of(asked.migration, text))
        expect(
            context.run.target,
            SchemaText.objects.get(pk=asked.shown_schema),
            ExpectedSchema.Because.ADOPTED,
            run=context.run,
            accepted_by=context.run.requested_by,
            reason=context.run.reason,
        )
        context.log(f"adopt: {asked.migration} is marked applied; commit its file", "ok")
        return say("%(migration)s marked applied", migration=asked.migration)


def _script(engine: Engine, name: str) -> MigrationScript:
    for script in engine.read_folder().scripts:
        if script.name == name:
            return script
    raise AdapterError(f"{name} is not in the migrations folder")
