"""Where an archive made elsewhere is restored first: restoring runs the code in it."""

from __future__ import annotations

from backups_app.models import ReplacedDatabase
from opsconsole.environments import secrets
from opsconsole.environments.models import Target
from opsconsole.exceptions import AdapterError, StepFailed
from opsconsole.runs.choices import RunKind
from opsconsole.runs.models import Run
from opsconsole.runs.step import RunContext
from opsconsole.sentences import Text, say
from opsconsole.targets import server
from opsconsole.targets.dsn import Dsn
from opsconsole.targets.reach import Reach, problems_of, read_reach

NO_ADDRESS = say(
    "an archive made elsewhere runs code while it is restored, and no quarantine address is set for "
    "this environment: an admin sets one in its settings (a role that may create databases and "
    "touch nothing else, best on a server of its own)"
)


def is_set(target: Target) -> bool:
    return bool(target.quarantine_dsn_encrypted)


def may_hold_work_of(run: Run) -> bool:
    """Whether that run may have restored something there."""
    return is_set(run.target) and run.kind in {RunKind.IMPORT, RunKind.VERIFY}


def dsn_of(context: RunContext) -> Dsn:
    """The quarantine address of the run's target. Raises StepFailed when none is set."""
    if not is_set(context.run.target):
        raise StepFailed(NO_ADDRESS)
    place = secrets.resolve_quarantine_dsn(context.run.target)
    context.recorder.hide(place.password)
    return place


def require_confined(context: RunContext) -> Dsn:
    """The quarantine address, whose role was seen to reach nothing that matters.

    Raises StepFailed, with the remedy, for a role that could touch anything else, or that may
    not create databases.
    """
    place = dsn_of(context)
    live, identifier = _read(context, context.dsn)
    try:
        found, own_identifier = _read(context, place)
    except AdapterError as error:
        raise _refusal(place, error.text) from error
    kept = _kept_on(identifier if found.server == live.server else own_identifier)
    for problem in problems_of(found, live, kept):
        raise _refusal(place, problem)
    return place


def _read(context: RunContext, place: Dsn) -> tuple[Reach, str]:
    """What the role there may touch, and the cluster's identifier as that role knows it."""
    with context.connect("reach", database=place.maintenance_database, on=place) as session:
        return read_reach(session), server.system_identifier(session)


def _kept_on(identifier: str) -> set[str]:
    """Databases that environments have on that server, and those that restores put aside there."""
    targets = Target.objects.filter(system_identifier=identifier)
    replaced = ReplacedDatabase.objects.kept().filter(target__in=targets)
    return {
        *targets.values_list("database_name", flat=True),
        *replaced.values_list("replaced_name", flat=True),
    }


def _refusal(place: Dsn, problem: Text) -> StepFailed:
    return StepFailed(
        say("the quarantine %(place)s: %(problem)s", place=place.shown(), problem=problem)
    )
