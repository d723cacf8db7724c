"""Read the truth of a target: its server, its history, its folder, and the plan that follows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from migrations_app.assess.baseline import missing_baseline
from migrations_app.assess.effects import functions_called
from migrations_app.assess.lint import Assessment, assess
from migrations_app.engines import Engine, MigrationScript, MigrationState, ToolVerdict
from migrations_app.engines.evidence import Evidence, read_evidence
from migrations_app.engines.kinds import Revision
from migrations_app.engines.statements import takes_escapes
from migrations_app.models import ScriptText
from migrations_app.reading.readings import (
    MigrationRead,
    Reading,
    RevisionRead,
    VerdictRead,
    reading_of,
)
from migrations_app.sources.folders import engine_for
from opsconsole.environments.migration_status import MigrationStatus
from opsconsole.environments.models import Environment, Target, TargetState
from opsconsole.environments.readings import BaselineMissing, ServerRead
from opsconsole.environments.secrets import resolve_dsn
from opsconsole.environments.survey import survey
from opsconsole.exceptions import AdapterError
from opsconsole.formats import one_line
from opsconsole.runs.models import Plan
from opsconsole.runs.patience import patiently
from opsconsole.targets import server
from opsconsole.targets.dsn import Dsn
from opsconsole.targets.relations import Catalogue, read_catalogue

logger = logging.getLogger(__name__)
KEPT_STATES = 500
# Of one statement, and of the whole: the second ends what waits for a server that is stuck.
STATEMENT_SECONDS = 30
MOST_SECONDS = 300
NAME_NOT_UTF8 = (
    "A database in SQL_ASCII may hold names in any encoding, and this one holds one that is not UTF-8: "
    "rename it. psql shows it after \\encoding SQL_ASCII"
)


@dataclass(frozen=True)
class Observation:
    """One reading of a target and its folder."""

    facts: server.ServerFacts
    states: list[MigrationState]
    problems: list[str]
    tool_version: str
    assessments: dict[str, Assessment]
    verdict: ToolVerdict
    evidence: dict[str, Evidence]
    revision: Revision | None = None
    lint_problem: str = ""
    baseline: BaselineMissing | None = None

    @property
    def pending(self) -> list[MigrationScript]:
        return [s.script for s in self.states if s.state.is_pending and s.script]

    @property
    def refusals(self) -> list[str]:
        """Why a migrate run would be refused now, one line each; empty when it would not."""
        lines = list(self.problems)
        for state in self.states:
            if state.state is MigrationStatus.FAILED:
                lines.append(
                    f"{state.name} failed and is unresolved: mark it rolled back or applied"
                )
            elif state.state is MigrationStatus.RUNNING:
                lines.append(f"{state.name} is being applied by another session")
            elif state.state is MigrationStatus.EDITED:
                lines.append(f"{state.name} was edited after it was applied: restore its text")
        lines += [f"{s.file}: {s.refusal}" for s in self.pending if s.refusal]
        return lines + ([_needs_baseline(self.baseline)] if self.baseline else [])

    @property
    def migrations(self) -> tuple[MigrationRead, ...]:
        """Every migration, with its assessment where it is pending and how far it came where it
        failed: as stored and shown."""
        return tuple(
            MigrationRead.model_validate(
                state.as_dict()
                | (self.assessments[state.name].as_dict() if state.name in self.assessments else {})
                | (self.evidence[state.name].as_dict() if state.name in self.evidence else {})
            )
            for state in self.states
        )

    @property
    def server_read(self) -> ServerRead:
        return ServerRead.model_validate(self.facts.as_dict())

    @property
    def reading(self) -> Reading:
        revision = self.revision
        return Reading(
            server=self.server_read,
            migrations=self.migrations,
            lint_problem=self.lint_problem,
            tool_verdict=VerdictRead.model_validate(self.verdict.as_dict()),
            refusals=tuple(self.refusals),
            tool_version=self.tool_version,
            plan=self.plan_content(),
            revision=RevisionRead.model_validate(revision.as_dict()) if revision else None,
            baseline=self.baseline,
        )

    def plan_content(self) -> dict[str, Any]:
        """What is confirmed: this database, with this history, gets these migrations, from this
        commit."""
        return {
            "target": [self.facts.system_identifier, self.facts.database],
            "history": [
                [s.name, s.row.checksum] for s in self.states if s.row and s.row.is_applied
            ],
            "migrations": [
                {"name": s.name, "checksum": s.checksum, "is_atomic": s.is_atomic}
                for s in self.pending
            ],
        } | ({"commit": self.revision.commit} if self.revision else {})


def observe(
    engine: Engine, connection: psycopg.Connection, dsn: Dsn, *, is_protected: bool = False
) -> Observation:
    """Read everything anew on one session at `dsn`, and assess what is pending."""
    reading = engine.read_folder()
    store_scripts(reading.scripts)
    rows = engine.read_history(connection)
    facts = survey(dsn, connection, engine.advisory_lock)
    states = engine.compare(reading.scripts, rows, is_locked=facts.lock_holder is not None)
    evidence = {
        s.name: read_evidence(connection, s.script.statements, engine.schema)
        for s in states
        if s.state is MigrationStatus.FAILED and s.script
    }
    pending = [s.script for s in states if s.state.is_pending and s.script]
    catalogue = _catalogue_for(connection, pending)
    assessments, problem = _assess(pending, catalogue, engine.schema, is_protected)
    is_unknown = not any(row.is_applied or row.is_unfinished for row in rows)
    return Observation(
        facts,
        states,
        reading.problems + _read_otherwise(connection, pending),
        reading.tool_version,
        assessments,
        engine.tool_verdict(states),
        evidence,
        engine.revision,
        problem,
        missing_baseline(engine, pending, catalogue) if is_unknown else None,
    )


def _read_otherwise(connection: psycopg.Connection, pending: list[MigrationScript]) -> list[str]:
    """What this server would read otherwise than it was split here: a line a script."""
    if connection.info.parameter_status("standard_conforming_strings") == "on":
        return []
    found = [(p.file, next(filter(takes_escapes, p.statements), None)) for p in pending]
    return [
        f"{file}: line {statement.line} has a backslash in quotes, and standard_conforming_strings is off "
        "for this role or database, so the server takes it for an escape: RESET that setting there"
        for file, statement in found
        if statement
    ]


def _needs_baseline(missing: BaselineMissing) -> str:
    """The refusal, with what to do today."""
    if not missing.file:
        return (
            f"{missing.table} is there and {missing.tool} has no history in this database, so "
            f"{missing.tool} would refuse it: write a migration that creates what is there, then "
            f"record it as applied with: {missing.command}"
        )
    return (
        f"{missing.file} would create {missing.table}, which is there already, and no migration is "
        "recorded as applied: record each one whose tables are there, oldest first, with: "
        f"{missing.command}"
    )


def _catalogue_for(connection: psycopg.Connection, pending: list[MigrationScript]) -> Catalogue:
    """As far as the scripts need it: nothing where there are none."""
    if not pending:
        return Catalogue()
    called = set().union(*(functions_called(script.text) for script in pending))
    return read_catalogue(connection, called)


def _assess(
    pending: list[MigrationScript], catalogue: Catalogue, schema: str, is_protected: bool
) -> tuple[dict[str, Assessment], str]:
    """The assessments; without them, why: what cannot be linted can still be shown and applied."""
    try:
        return assess(pending, catalogue, schema, is_protected=is_protected), ""
    except AdapterError as error:
        return {}, str(error)


def store_scripts(scripts: list[MigrationScript]) -> None:
    """Keep the text of every script seen, by its hash."""
    by_hash = {script.checksum: script for script in scripts}
    known = set(ScriptText.objects.filter(pk__in=by_hash.keys()).values_list("pk", flat=True))
    rows = [ScriptText(sha256=key, sql=by_hash[key].sql) for key in by_hash.keys() - known]
    patiently(lambda: ScriptText.objects.bulk_create(rows, ignore_conflicts=True))


def observe_target(target: Target) -> TargetState:
    """Read the target now and store what was seen, or why nothing could be. On a worker.

    Its moment is when the reading began: what was asked for later is not answered by it.
    """
    state = TargetState(target=target, observed_at=timezone.now())

    def read_and_keep() -> None:
        seen = _read(target)
        _remember_identity(target, seen.facts)
        state.data = seen.reading.stored()
        with transaction.atomic():
            state.save()

    reason = _why_not(read_and_keep, target)
    if reason:
        state.data, state.error = {}, reason
        state.save()
    else:
        _forget_old_states(target)
    return state


def try_target(target: Target) -> tuple[dict[str, Any], str]:
    """Read a target that is not saved: what would be stored of it, or why nothing. On a worker.

    Where nothing but its migrations is in the way, both: its server alone, and why they could not
    be read.
    """
    found: dict[str, Any] = {}
    fault = ""

    def read() -> None:
        nonlocal fault
        dsn = resolve_dsn(target)
        engine, fault = _engine_or_fault(target.environment, dsn)
        with _session(dsn) as connection:
            if engine is None:
                facts = survey(dsn, connection)
                reading = Reading(server=ServerRead.model_validate(facts.as_dict()))
            else:
                seen = observe(
                    engine, connection, dsn, is_protected=target.environment.is_protected
                )
                facts, reading = seen.facts, seen.reading
        with suppress(Target.DoesNotExist):
            raise _taken(facts)
        found.update(reading.stored())

    reason = _why_not(read, target)
    if reason and fault:
        return {}, f"{reason}. Besides, the migrations could not be read: {fault}"
    return found, reason or fault


def _engine_or_fault(environment: Environment, dsn: Dsn) -> tuple[Engine | None, str]:
    """The engine on migrations that can be read; where they cannot, none and why."""
    try:
        engine = engine_for(environment, dsn)
        engine.read_folder()
    except AdapterError as error:
        return None, str(error)
    return engine, ""


def _read(target: Target) -> Observation:
    dsn = resolve_dsn(target)
    engine = engine_for(target.environment, dsn)
    with _session(dsn) as connection:
        return observe(engine, connection, dsn, is_protected=target.environment.is_protected)


@contextmanager
def _session(dsn: Dsn) -> Iterator[psycopg.Connection]:
    with (
        server.connect(
            dsn, application_name="opsconsole:observe", timeout_seconds=STATEMENT_SECONDS
        ) as connection,
        server.cut_off_after(MOST_SECONDS, connection),
    ):
        yield connection


def _why_not(read: Callable[[], None], target: Target) -> str:
    """Why a target could not be read; "" when it was."""
    try:
        read()
    except psycopg.errors.CharacterNotInRepertoire as error:
        return f"{server.reason_of(error)}. {NAME_NOT_UTF8}"
    except (AdapterError, psycopg.Error) as error:
        return server.reason_of(error) if isinstance(error, psycopg.Error) else str(error)
    except Exception as error:
        # Whoever waits for the answer is told; else it looks as if nobody had been asked.
        logger.exception("the reading of %s crashed", target)
        return f"the reading crashed: {type(error).__name__}: {one_line(str(error), 300)}"
    return ""


def _remember_identity(target: Target, facts: server.ServerFacts) -> None:
    """Keep which database this is. Raises AdapterError if another environment is on it."""
    if (target.system_identifier, target.database_name) == (
        facts.system_identifier,
        facts.database,
    ):
        return
    try:
        with transaction.atomic():
            Target.objects.filter(pk=target.pk).update(
                system_identifier=facts.system_identifier, database_name=facts.database
            )
    except IntegrityError:
        raise _taken(facts) from None


def _taken(facts: server.ServerFacts) -> AdapterError:
    """That an environment is on this database already. Raises Target.DoesNotExist if none is."""
    other = Target.objects.get(
        system_identifier=facts.system_identifier, database_name=facts.database
    )
    return AdapterError(
        f"{other.database_name} on this server already belongs to {other.environment}: "
        "two environments on one database are refused"
    )


def _forget_old_states(target: Target) -> None:
    old = target.states.values_list("pk", flat=True)[KEPT_STATES : KEPT_STATES + 100]
    TargetState.objects.filter(pk__in=list(old)).delete()


def plan_changes(confirmed: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What differs between the confirmed plan and the target and folder as they are now.

    Another commit with the same migrations is no difference: the confirmed one is what is run.
    """
    lines = []
    if confirmed["target"] != found["target"]:
        lines.append(
            _("the database is now %(name)s on another server") % {"name": found["target"][1]}
        )
    before = {m["name"]: m["checksum"] for m in confirmed["migrations"]}
    after = {m["name"]: m["checksum"] for m in found["migrations"]}
    applied = {name for name, _checksum in found["history"]}
    for name in sorted(before.keys() | after.keys()):
        if name not in after and name in applied:
            lines.append(_("%(name)s was applied meanwhile") % {"name": name})
        elif name not in after:
            lines.append(_("%(name)s is gone from the folder") % {"name": name})
        elif name not in before:
            lines.append(_("%(name)s was added") % {"name": name})
        elif before[name] != after[name]:
            lines.append(
                _("%(name)s was changed: sha256 %(before)s… when confirmed, %(after)s… now")
                % {"name": name, "before": before[name][:12], "after": after[name][:12]}
            )
    if not lines and confirmed["history"] != found["history"]:
        lines.append(_("the history of applied migrations changed"))
    return lines


def plan_for(target: Target, state: TargetState) -> Plan:
    """The plan that a stored state stands for; the same state gives the same plan."""
    content = reading_of(state).plan
    assert content is not None
    plan, _created = Plan.objects.get_or_create(
        target=target, hash=Plan.hash_of(content), defaults={"content": content}
    )
    return plan
