"""The levels of proof and the admin's own assertions, on real archives."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from backups_app import alarms, services
from backups_app.archives.encryption import new_identity, public_key
from backups_app.choices import ProofLevel
from backups_app.models import Backup, Storage
from backups_app.models.backup import CopyState
from backups_app.services.policies import facts_of
from backups_app.stores.local import LocalStore
from opsconsole.exceptions import AdapterError, Refused
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.models import Run
from tests.backups_app.conftest import execute, lose, restore
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
    assert (
        "did not hold when it was proven"
        in alarms.alarms_of([environment.targets.get()])[environment.targets.get().pk][0]
    )


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


@pytest.mark.parametrize("level", list(ProofLevel))
def test_lost_backup_run_ends_by_how_far_its_backup_is_proven(run_backup, monkeypatch, level):
    monkeypatch.setattr(ProofLevel, "tone", "good")
    run = run_backup()
    Backup.objects.update(proof=level)
    ended = RunStatus.SUCCEEDED if level >= ProofLevel.RESTORED else RunStatus.FAILED
    assert lose(run).status == ended


# -- what says nothing about the archive


LEVELS = [level for level in ProofLevel if level >= 0]


@pytest.fixture
def in_a_bucket(bucket, run_backup, set_policy):
    """A proven backup whose one copy lies in the scripted bucket."""
    set_policy(storage=bucket.storage)
    return Backup.objects.get(run=run_backup())


@pytest.mark.parametrize("level", LEVELS)
def test_outage_of_the_storage_leaves_the_proof_and_says_so(
    in_a_bucket, bucket, operator, environment, as_role, level
):
    backup, url = in_a_bucket, bucket.storage.url
    before = (backup.proof, backup.proven_at, backup.proof_problem)
    Storage.objects.filter(pk=bucket.storage.pk).update(url=url.replace(f":{bucket.port}", ":1"))

    run = prove(backup, operator, level)

    assert run.status == RunStatus.FAILED
    assert "cannot be reached (connection refused)" in run.summary
    assert "The copy in Bucket could not be checked; the proof stays as it was." in run.summary
    backup.refresh_from_db()
    assert (backup.proof, backup.proven_at, backup.proof_problem) == before
    assert backup.copies.get().state == CopyState.UNREACHABLE
    assert "could not be checked" in as_role("viewer").get(backup.get_absolute_url()).text
    assert alarms.alarms_of([environment.targets.get()])[environment.targets.get().pk] == [
        f"The copy of backup {backup.pk} in Bucket could not be checked."
    ]
    assert [fact.is_proven for fact in facts_of(environment.targets.get())] == [True]

    Storage.objects.filter(pk=bucket.storage.pk).update(url=url)
    assert restore(operator, backup, environment).status == RunStatus.SUCCEEDED
    copy = backup.copies.get()
    assert (copy.state, copy.problem) == (CopyState.STORED, "")


@pytest.mark.parametrize("recipients", [False, True], ids=["plain", "encrypted"])
@pytest.mark.parametrize("level", LEVELS)
def test_store_that_breaks_off_while_it_is_read_leaves_the_proof(
    run_backup, set_policy, operator, level, recipients, monkeypatch
):
    set_policy(recipients=public_key(new_identity()) if recipients else "")
    backup = Backup.objects.get(run=run_backup())
    read = LocalStore.read

    def break_off(self, key):
        yield next(read(self, key))[:1000]
        raise AdapterError("cannot read the archive: Stale file handle")

    monkeypatch.setattr(LocalStore, "read", break_off)
    run = prove(backup, operator, level)
    assert "Stale file handle" in run.summary
    backup.refresh_from_db()
    assert (backup.proof, backup.copies.get().state) == (
        ProofLevel.CONTENT,
        CopyState.UNREACHABLE,
    )


@pytest.mark.parametrize("level", LEVELS)
def test_archive_that_is_not_there_is_evidence(backup, operator, settings, level):
    Path(settings.BACKUPS_FOLDER, backup.key).unlink()
    run = prove(backup, operator, level)
    assert "No such file or directory" in run.summary
    backup.refresh_from_db()
    assert (backup.proof, backup.copies.get().state) == (ProofLevel.NONE, CopyState.MISSING)


def test_unreachable_copy_beside_a_corrupt_one_leaves_the_proof(
    in_a_bucket, bucket, operator, settings
):
    backup, builtin = in_a_bucket, Storage.objects.builtin()
    path = Path(settings.BACKUPS_FOLDER, backup.key)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"junk")
    backup.copies.create(storage=builtin)
    bucket.script = lambda *_: 403
    for level in LEVELS:
        assert prove(backup, operator, level).status == RunStatus.FAILED
        backup.refresh_from_db()
        assert backup.proof == ProofLevel.CONTENT
    assert {copy.storage_id: copy.state for copy in backup.copies.all()} == {
        builtin.pk: CopyState.CORRUPT,
        bucket.storage.pk: CopyState.UNREACHABLE,
    }


@pytest.mark.parametrize("level", LEVELS[1:])
def test_all_copies_known_to_be_bad_are_evidence_at_each_level(backup, operator, level):
    backup.copies.update(state=CopyState.MISSING)
    assert "no copy of the backup is whole" in prove(backup, operator, level).summary
    backup.refresh_from_db()
    assert backup.proof == ProofLevel.NONE
