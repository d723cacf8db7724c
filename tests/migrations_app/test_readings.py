"""What is stored of a target: everything that was observed, and readable from any version."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from migrations_app.assess.effects import LockMode
from migrations_app.assess.impact import Risk, StatementImpact, TableLock
from migrations_app.assess.lint import Assessment, Finding
from migrations_app.engines import MigrationScript, MigrationState, Statement, ToolVerdict
from migrations_app.engines.evidence import Evidence, Trace
from migrations_app.engines.kinds import AppliedMigration, Revision
from migrations_app.reading.observation import Observation
from migrations_app.reading.readings import MigrationRead, Reading, reading_of
from opsconsole.environments.migration_status import MigrationStatus
from opsconsole.environments.models import TargetState
from opsconsole.environments.readings import BaselineMissing, SessionRead
from opsconsole.targets.server import ServerFacts

NOON = datetime(2026, 1, 2, 12, 0, 0, 5, tzinfo=UTC)
STATEMENT = Statement(2, "ALTER TABLE t ADD COLUMN c text;", "AlterTable")
SCRIPT = MigrationScript("2_add", "2_add/migration.sql", STATEMENT.text, "abc", (STATEMENT,), True)
ROW = AppliedMigration("1", "1_init", "def", NOON, NOON, None, "an error", 1)
HOLDER = {
    "pid": 7,
    "user": "app",
    "name": "psql",
    "client": "10.0.0.1",
    "state": "idle",
    "since": "2026-01-02T12:00:00.5+00:00",
}
FACTS = ServerFacts(
    "17.2", 170002, "42", "shop", 1_000_000, "app", False, True, True, "UTF8", "C", HOLDER
)
IMPACT = StatementImpact(
    STATEMENT,
    (TableLock("public.t", LockMode.ACCESS_EXCLUSIVE, 3, 8192),),
    "rewrites",
    8192,
    8192,
    ("the values of t.c",),
    ("who reads t.c",),
    False,
)
SEEN = Observation(
    FACTS,
    [
        MigrationState("1_init", MigrationStatus.FAILED, None, ROW, resolved_by_hand=True),
        MigrationState("2_add", MigrationStatus.PENDING, SCRIPT, was_rolled_back=True),
    ],
    ["a problem"],
    "7.4.0",
    {"2_add": Assessment([IMPACT], [Finding("destroys-data", 2, "Gone.", "Copy.")], Risk.HIGH)},
    ToolVerdict("prisma migrate status", "failed: 1_init", ("2_add",)),
    {"1_init": Evidence([Trace(1, "SELECT 1;", None, "leaves no trace in the catalogue")])},
    Revision("main", "f00", "Add", "Ann", NOON),
    "squawk could not be run",
    BaselineMissing(tool="Prisma", table="public.t", file="2_add/migration.sql", command="npx x"),
)


def test_everything_that_was_observed_is_stored():
    first, second = SEEN.states
    assert SEEN.reading.stored() == json.loads(
        json.dumps(
            {
                "server": FACTS.as_dict(),
                "migrations": [
                    first.as_dict() | SEEN.evidence["1_init"].as_dict(),
                    second.as_dict() | SEEN.assessments["2_add"].as_dict(),
                ],
                "lint_problem": SEEN.lint_problem,
                "tool_verdict": SEEN.verdict.as_dict(),
                "refusals": SEEN.refusals,
                "tool_version": "7.4.0",
                "baseline": SEEN.baseline.model_dump(),
                "plan": SEEN.plan_content(),
                "revision": Revision("main", "f00", "Add", "Ann", NOON).as_dict(),
            }
        )
    )


def test_stored_reading_is_read_as_it_was_observed():
    state = TargetState(data=SEEN.reading.stored())
    assert reading_of(state) == SEEN.reading
    assert state.seen.server == SEEN.reading.server
    assert state.troubled[0].name == "1_init"


def test_row_of_an_earlier_version_has_defaults_for_what_it_did_not_know():
    state = TargetState(data={"migrations": [{"name": "1", "state": "pending", "gone": 1}]})
    assert reading_of(state) == Reading(
        migrations=(MigrationRead(name="1", state=MigrationStatus.PENDING),)
    )
    assert (state.pending, state.seen.server) == (["1"], None)


def test_target_that_was_never_or_not_read_has_an_empty_reading():
    assert reading_of(None) == Reading()
    assert reading_of(TargetState(error="no route to host")) == Reading()


def test_session_that_the_role_may_not_see_has_no_moment():
    assert SessionRead.model_validate(HOLDER).connected_at == datetime(
        2026, 1, 2, 12, 0, 0, 500_000, tzinfo=UTC
    )
    assert SessionRead(pid=7).connected_at is None
