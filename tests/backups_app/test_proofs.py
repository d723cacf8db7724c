"""The levels of proof and the admin's own assertions, on real archives."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from backups_app import alarms, services
from backups_app.models import Backup
from opsconsole.choices import ProofLevel, RunStatus
from opsconsole.exceptions import Refused
from opsconsole.models import Run
from tests.backups_app.conftest import execute, restore
from tests.conftest import log_of

pytestmark = pytest.mark.usefixtures("transactional_db")


def prove(backup: Backup, actor, level: ProofLevel) -> Run:
    return execute(
        services.request_verify(
            actor=actor, backup=backup, idempotency_key=uuid.uuid4().hex, level=level
        )
    )


@pytest.mark.parametrize("level", [ProofLevel.CHECKSUM, ProofLevel.DECODED, ProofLevel.RESTORED])
@pytest.mark.parametrize("form", ["custom", "directory"])
def test_each_proof_level_holds_and_never_lowers_the_proof(
    run_backup, set_policy, operator, level, form
):
    set_policy(format=form, jobs=2)
    backup = Backup.objects.get(run=run_backup())
    run = prove(backup, operator, level)
    assert run.status == RunStatus.SUCCEEDED, run.summary
    backup.refresh_from_db()
    assert backup.proof == ProofLevel.CONTENT


@pytest.mark.parametrize("level", [level for level in ProofLevel if level >= 0])
def test_each_proof_level_finds_a_flipped_bit(backup, operator, settings, level, environment):
    path = Path(settings.BACKUPS_FOLDER) / backup.key
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))
    run = prove(backup, operator, level)
    assert run.status == RunStatus.FAILED
    assert "its checksum is not the recorded one" in run.summary
    backup.refresh_from_db()
    assert (backup.proof, backup.copies.get().state) == (ProofLevel.NONE, "corrupt")
    with pytest.raises(Refused, match="never proven"):
        restore(operator, backup, environment)
    assert "did not hold when it was proven" in alarms.alarms_of([environment])[environment.pk][0]


def test_assertion_that_is_not_true_is_named(run_backup, set_policy):
    set_policy(assertions="SELECT count(*) = 200 FROM users\nSELECT count(*) > 5000 FROM targets")
    run = run_backup()
    assert run.status == RunStatus.FAILED
    assert "'SELECT count(*) > 5000 FROM targets' returned False" in run.summary
    assert "assertion holds: SELECT count(*) = 200 FROM users" in log_of(run)
    assert Backup.objects.get(run=run).proof == ProofLevel.NONE


def test_assertion_cannot_write_and_a_broken_one_is_named(run_backup, set_policy):
    set_policy(assertions="DELETE FROM targets RETURNING true")
    assert "cannot execute DELETE in a read-only transaction" in run_backup().summary
    set_policy(assertions="SELECT nonsense")
    assert "42703" in run_backup().summary
