"""What a worker read of a target and its folder, typed, with all that is known of migrations."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import JsonValue, PlainSerializer

from migrations_app.assess.impact import Risk
from migrations_app.assess.lint import Finding
from migrations_app.engines.evidence import Trace
from opsconsole.environments.models import TargetState
from opsconsole.environments.readings import MigrationSeen, Part, TargetRead

# As earlier versions stored it too.
Moment = Annotated[datetime, PlainSerializer(datetime.isoformat, when_used="json")]


class LockRead(Part):
    """A lock of a statement. `rows` is an estimate; `blocks` says in words what waits for it."""

    table: str
    mode: str
    blocks: str = ""
    rows: int = 0
    size_bytes: int = 0


class ImpactRead(Part):
    """What one statement would do here. `waits_bytes`: work done while somebody waits."""

    line: int
    text: str
    locks: tuple[LockRead, ...] = ()
    work: str = ""
    work_bytes: int = 0
    waits_bytes: int = 0
    destroys: tuple[str, ...] = ()
    breaks: tuple[str, ...] = ()
    is_opaque: bool = False


class MigrationRead(MigrationSeen):
    """One migration as folder and history together say it is; of one that is pending, what it
    would do here, and of one that failed, how far it came."""

    checksum: str = ""
    applied_checksum: str = ""
    file: str = ""
    is_atomic: bool | None = None
    statements: int | None = None
    refusal: str = ""
    by_hand: bool = False
    was_rolled_back: bool = False
    started_at: Moment | None = None
    finished_at: Moment | None = None
    logs: str = ""
    impact: tuple[ImpactRead, ...] = ()
    findings: tuple[Finding, ...] = ()
    risk: Risk | None = None
    traces: tuple[Trace, ...] = ()
    landed: int | None = None


class VerdictRead(Part):
    """What the tool's status command would print, and the names whose trouble it does not show."""

    command: str
    says: str
    is_silent_on: tuple[str, ...] = ()


class RevisionRead(Part):
    """The commit that the folder was read from, and the branch or tag that led to it."""

    ref: str
    commit: str
    subject: str = ""
    author: str = ""
    committed_at: Moment | None = None


class Reading(TargetRead):
    """Everything that is stored of a target. `plan` is what a plan of it would hold."""

    migrations: tuple[MigrationRead, ...] = ()
    lint_problem: str = ""
    tool_verdict: VerdictRead | None = None
    refusals: tuple[str, ...] = ()
    plan: dict[str, Any] | None = None
    revision: RevisionRead | None = None

    def stored(self) -> dict[str, JsonValue]:
        return self.model_dump(mode="json", exclude_unset=True)


def reading_of(state: TargetState | None) -> Reading:
    """What the state holds; an empty reading where there is none."""
    return Reading.model_validate(state.data if state else {})
