"""The statuses of migrations: what is stored of them, how they are grouped and shown."""

from __future__ import annotations

from migrations_app.assess.impact import Risk
from opsconsole.choices import look_of
from opsconsole.environments.migration_status import MigrationStatus
from opsconsole.environments.models import TargetState

# As rows of earlier versions hold them.
STORED = ["failed", "running", "edited", "missing_locally", "out_of_order", "pending", "applied"]


def state_of_all() -> TargetState:
    return TargetState(data={"migrations": [{"name": f"1_{s}", "state": s} for s in STORED]})


def test_stored_values_are_those_of_earlier_versions():
    assert [MigrationStatus(value).value for value in STORED] == STORED
    assert [Risk(value).value for value in ("low", "medium", "high")] == ["low", "medium", "high"]


def test_state_groups_its_migrations_by_status():
    state = state_of_all()
    assert state.pending == ["1_out_of_order", "1_pending"]
    assert state.applied == ["1_edited", "1_missing_locally", "1_applied"]
    assert [m.name for m in state.troubled] == [
        "1_failed",
        "1_running",
        "1_edited",
        "1_missing_locally",
    ]
    assert state.names(MigrationStatus.APPLIED) == ["1_applied"]


def test_status_of_a_migration_says_how_it_looks():
    assert look_of(MigrationStatus.MISSING_LOCALLY) == ("warn", "circle-help", "missing locally")
    assert look_of(Risk.HIGH) == ("bad", "triangle-alert", "high")
