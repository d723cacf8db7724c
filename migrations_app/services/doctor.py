"""What is wrong with an environment's migrations, from evidence, and the ways out of it."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from backups_app.models import Backup
from migrations_app.engines import ENGINES
from migrations_app.engines.evidence import Evidence, Trace
from migrations_app.models import ScriptText
from migrations_app.parameters import EndSessionParameters, FinishParameters, ResolveParameters
from migrations_app.reading.readings import MigrationRead, reading_of
from opsconsole.access.models import User
from opsconsole.access.permissions import authorize
from opsconsole.environments.migration_status import MigrationStatus
from opsconsole.environments.models import Target, TargetState
from opsconsole.environments.readings import SessionRead
from opsconsole.events.reasons import require_reason
from opsconsole.exceptions import Kind, Refused
from opsconsole.runs import services as runs
from opsconsole.runs.models import Run
from opsconsole.web.keys import key_from

MARKS = {"rolled_back", "applied", "finish"}


@dataclass(frozen=True)
class Way:
    """One way out. `mark` is what its button posts; `does` says what then happens."""

    mark: str
    title: str
    does: str
    icon: str
    is_likely: bool = False


@dataclass(frozen=True)
class Diagnosis:
    """One unhealthy migration: what happened, what shows it, and what can be done.

    `landed` is how many of its first statements are in the database, None if unknown. `diff` are
    the lines in which its file differs from the text that was applied.
    """

    name: str
    state: MigrationStatus
    what: list[str]
    logs: str = ""
    traces: list[Trace] = field(default_factory=list)
    landed: int | None = None
    checksum: str = ""
    ways: list[Way] = field(default_factory=list)
    diff: list[str] = field(default_factory=list)
    run: Run | None = None
    backup: Backup | None = None
    has_text: bool = False


def diagnose(target: Target, state: TargetState | None) -> list[Diagnosis]:
    """What is wrong with each unhealthy migration of the state, in order."""
    if state is None or state.error:
        return []
    tool = ENGINES[target.environment.application.engine].tool
    readers = {
        MigrationStatus.FAILED: _failed,
        MigrationStatus.RUNNING: _running,
        MigrationStatus.EDITED: _edited,
        MigrationStatus.MISSING_LOCALLY: _missing,
    }
    return [
        readers[m.state](target, m, tool)
        for m in reading_of(state).migrations
        if m.state.is_troubled
    ]


def lock_holder(state: TargetState | None) -> SessionRead | None:
    """Who holds the tool's lock, as the state says; None when nobody or a run at work does."""
    read = state.seen.server if state else None
    found = read.lock_holder if read else None
    if found is None:
        return None
    program, _colon, rest = found.name.partition(":")
    run_id = key_from(rest.partition(":")[0]) if program == "opsconsole" else 0
    run = Run.objects.filter(pk=run_id).first() if run_id else None
    if run and not run.state.is_terminal:
        return None
    return found


def _failed(target: Target, migration: MigrationRead, tool: str) -> Diagnosis:
    run = _run_that_failed(target, migration.name)
    traces = list(migration.traces)
    landed, source = migration.landed, _("follows from the other statements")
    is_rolled_back = bool(migration.is_atomic) and (run is not None or landed is None)
    if is_rolled_back:
        # Known: what the catalogue shows of it, something else made.
        landed, source = 0, _("the file is applied as a whole or not at all")
        traces = [_not_by_this_file(trace) for trace in traces]
    elif landed is None:
        landed, source = _seen_by(run, migration), _("by the log of the run that failed")
    if landed is not None:
        traces = [
            trace
            if trace.landed is not None
            else replace(trace, landed=number < landed, shown=source)
            for number, trace in enumerate(traces)
        ]
    what = [_begun(migration, tool)]
    if traces:
        what.append(_extent(landed, len(traces)))
    return Diagnosis(
        migration.name,
        MigrationStatus.FAILED,
        what,
        migration.logs,
        traces,
        landed,
        migration.checksum,
        _ways_out(landed, len(traces), tool),
        run=run,
        backup=run.backups.first() if run else None,
    )


def _not_by_this_file(trace: Trace) -> Trace:
    if not trace.landed:
        return trace
    return replace(trace, landed=False, shown=_("as the catalogue shows it, but not by this file"))


def _seen_by(run: Run | None, migration: MigrationRead) -> int | None:
    """How many statements the run saw land, unless the file or the catalogue says otherwise."""
    if run is None or run.plan is None or "landed" not in run.result:
        return None
    ran = {m["name"]: m["checksum"] for m in run.plan.content["migrations"]}
    evidence = Evidence(list(migration.traces))
    landed = len(run.result["landed"])
    is_same = ran.get(migration.name) == migration.checksum
    return landed if is_same and evidence.fits(landed) else None


def _begun(migration: MigrationRead, tool: str) -> str:
    if migration.logs:
        return _("Its SQL failed, and its row in %(tool)s's history is still open.") % {
            "tool": tool
        }
    return _(
        "Its row in %(tool)s's history has a start, no end and no error: what applied it died."
    ) % {"tool": tool}


def _extent(landed: int | None, count: int) -> str:
    if landed is None:
        return _("How far it came cannot be told from the catalogue: look at the data.")
    if landed == 0:
        return _("Nothing of it is in the database.")
    if landed == count:
        return _("All of it is in the database.")
    return ngettext(
        "%(landed)d of its %(count)d statements is in the database.",
        "The first %(landed)d of its %(count)d statements are in the database.",
        landed,
    ) % {"landed": landed, "count": count}


def _ways_out(landed: int | None, count: int, tool: str) -> list[Way]:
    ways = [
        Way(
            "rolled_back",
            _("Mark rolled back"),
            _(
                "Nothing of it is in the database, or you undid it by hand. It is pending again: "
                "mend or remove the file, and migrate."
            ),
            "undo-2",
            landed == 0,
        ),
        Way(
            "applied",
            _("Mark applied"),
            _(
                "All of it is in the database, or you completed it by hand. It will not be run "
                "again."
            ),
            "circle-check",
            landed is not None and landed == count > 0,
        ),
    ]
    if landed and landed < count:
        ways.insert(
            0,
            Way(
                "finish",
                _("Finish the rest"),
                _(
                    "A backup is taken and proven, the statements that have not landed are applied, "
                    "and it is marked applied. What has landed is not run again."
                ),
                "play",
                True,
            ),
        )
    return ways


def _running(_target: Target, migration: MigrationRead, tool: str) -> Diagnosis:
    text = _(
        "Its row in %(tool)s's history is open, and %(tool)s's lock is held: it is being "
        "applied now."
    ) % {"tool": tool}
    return Diagnosis(migration.name, MigrationStatus.RUNNING, [text])


def _edited(_target: Target, migration: MigrationRead, _tool: str) -> Diagnosis:
    texts = ScriptText.objects.in_bulk([migration.checksum, migration.applied_checksum])
    applied = texts.get(migration.applied_checksum)
    what = [
        _(
            "Its file was changed after it was applied here. Put the old text back, and write "
            "the change as a new migration."
        )
    ]
    if applied is None:
        what.append(_("This console never saw the text that was applied: look in your repository."))
        return Diagnosis(migration.name, MigrationStatus.EDITED, what)
    diff = difflib.unified_diff(
        applied.sql.splitlines(),
        texts[migration.checksum].sql.splitlines(),
        _("applied"),
        _("file now"),
        lineterm="",
        n=2,
    )
    return Diagnosis(migration.name, MigrationStatus.EDITED, what, diff=list(diff), has_text=True)


def _missing(_target: Target, migration: MigrationRead, _tool: str) -> Diagnosis:
    known = ScriptText.objects.filter(pk=migration.applied_checksum).exists()
    what = [
        _(
            "It was applied here, and its file is missing: this checkout is not the one that "
            "was deployed."
        )
    ]
    if known:
        what.append(_("Put the file back: this console kept the text that was applied."))
    return Diagnosis(migration.name, MigrationStatus.MISSING_LOCALLY, what, has_text=known)


def _run_that_failed(target: Target, name: str) -> Run | None:
    return (
        Run.objects.filter(target=target, operation="migrate", result__failed_script__name=name)
        .order_by("-pk")
        .first()
    )


def request_resolution(
    *,
    actor: User,
    target: Target,
    name: str,
    mark: str,
    reason: str,
    idempotency_key: str,
) -> Run:
    """Queue a run that takes one way out of a failed migration.

    `mark`: `rolled_back` or `applied` change the tool's history only; `finish` applies what has
    not landed, as the newest state shows it. Raises Refused (invalid) without a reason, (conflict)
    when the state offers nothing to finish.
    """
    authorize(actor, "migration.resolve", target.environment)
    if mark not in MARKS:
        raise Refused(
            _("Choose to mark it rolled back or applied, or to finish it."),
            kind=Kind.INVALID,
            field="mark",
        )
    require_reason(reason)
    return runs.request_run(
        actor=actor,
        target=target,
        reason=reason,
        idempotency_key=idempotency_key,
        parameters=_what_to_finish(target, name)
        if mark == "finish"
        else ResolveParameters.model_validate({"migration": name, "mark": mark}),
    )


def _what_to_finish(target: Target, name: str) -> FinishParameters:
    found = next(
        (d for d in diagnose(target, target.latest_state) if d.name == name),
        None,
    )
    if found is None or "finish" not in {way.mark for way in found.ways}:
        raise Refused(_("%(name)s has nothing to finish: open its page again.") % {"name": name})
    return FinishParameters(migration=name, checksum=found.checksum, landed=found.landed or 0)


def request_end_session(
    *, actor: User, target: Target, pid: int, reason: str, idempotency_key: str
) -> Run:
    """Queue a run that ends the session which holds the tool's lock, as it was shown.

    Raises Refused (invalid) without a reason, (conflict) when that session no longer holds it.
    """
    authorize(actor, "migration.resolve", target.environment)
    require_reason(reason)
    holder = lock_holder(target.latest_state)
    if holder is None or holder.pid != pid:
        raise Refused(_("That session no longer holds the lock. Open the page again."))
    return runs.request_run(
        actor=actor,
        target=target,
        reason=reason,
        idempotency_key=idempotency_key,
        parameters=EndSessionParameters(pid=holder.pid, user=holder.user, since=holder.since),
    )
