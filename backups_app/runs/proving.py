"""Prove a backup, as far as asked, and record how far it held."""

from __future__ import annotations

import time

import psycopg
from django.utils import timezone

from backups_app import copies
from backups_app.archives.restore import Restoration, decode_archive
from backups_app.choices import ProofLevel
from backups_app.exceptions import ArchiveCorrupt, ObjectMissing
from backups_app.models import Backup, BackupCopy, BackupPolicy
from backups_app.models.backup import CopyState
from backups_app.runs import building, quarantine
from opsconsole.environments.survey import tools_for
from opsconsole.exceptions import StepFailed
from opsconsole.formats import counted
from opsconsole.runs.patience import patiently
from opsconsole.runs.step import RunContext
from opsconsole.sentences import say
from opsconsole.targets import content
from opsconsole.targets.dsn import Dsn
from opsconsole.targets.server import reason_of


def prove_backup(
    context: RunContext, backup: Backup, level: ProofLevel = ProofLevel.CONTENT
) -> None:
    """Show that the backup holds at `level`; the row and its manifests say how far it is proven.

    Raises StepFailed, ArchiveCorrupt or ObjectMissing when it does not: the backup then counts as
    not proven, with the problem on it. Any other error means that the proof could not be made, and
    leaves what was proven before.
    """
    if not backup.is_counted:
        # There is nothing yet that its content could be compared with.
        level = min(level, ProofLevel.RESTORED)
    try:
        _PROOFS[level](context, backup)
    except _NotProven as problem:
        _record_failure(backup, str(problem))
        raise StepFailed(str(problem)) from problem
    except (ArchiveCorrupt, ObjectMissing) as error:
        _record_failure(backup, str(error))
        raise
    _record(backup, level)


class _NotProven(Exception):
    """The backup is not what it should be."""


def _record(backup: Backup, level: ProofLevel) -> None:
    backup.proof = max(level, backup.proof) if not backup.proof_problem else level
    backup.proven_at, backup.proof_problem = timezone.now(), ""
    backup.manifest["proof"] = ProofLevel(backup.proof).name.lower()
    backup.manifest["proven_at"] = backup.proven_at.isoformat()
    fields = ["proof", "proven_at", "proof_problem", "restore_seconds", "manifest"]
    patiently(lambda: backup.save(update_fields=fields))
    copies.rewrite_manifests(backup)


def _record_failure(backup: Backup, problem: str) -> None:
    backup.proof, backup.proof_problem = ProofLevel.NONE, problem[:500]
    backup.manifest["proof"] = "none"
    patiently(lambda: backup.save(update_fields=["proof", "proof_problem", "manifest"]))
    copies.rewrite_manifests(backup)


def _prove_checksum(context: RunContext, backup: Backup) -> None:
    """Level 0: the stored bytes of every copy are those that were written."""
    kept = backup.copies.exclude(state__in=[*CopyState.going(), CopyState.FAILED])
    checked = list(kept.select_related("storage", "backup"))
    for copy in checked:
        problem = copies.check_copy(copy)
        context.log(f"  {copy.storage}: {problem or 'checksum equal'}", "no" if problem else "ok")
    bad = [_said(copy) for copy in checked if copy.problem and not copy.is_unknown]
    unknown = [_said(copy) for copy in checked if copy.is_unknown]
    has_whole = len(bad) + len(unknown) < len(checked)
    if not has_whole and not unknown:
        raise _NotProven(bad[0] if bad else "there is no copy of it")
    if unknown:
        rest = say("another copy is whole") if has_whole else say("no copy is known to be whole")
        raise StepFailed(
            say(
                "one copy could not be checked, %(rest)s: %(problem)s",
                rest=rest,
                problem=unknown[0],
            )
        )
    if bad:
        raise StepFailed(say("one copy is not whole, another is: %(problem)s", problem=bad[0]))


def _said(copy: BackupCopy) -> str:
    return f"{copy.storage}: {copy.problem}"


def _prove_decoded(context: RunContext, backup: Backup) -> None:
    """Level 1: the whole archive can be read by pg_restore."""
    tools = tools_for(context.dsn, int(str(backup.manifest["client"]).split(".")[0]))
    how = Restoration("", backup.form.format, 1, True, building.scratch_folder())
    decode_archive(
        tools,
        how,
        copies.reader(context, backup),
        dsn=context.dsn,
        session=building.tool_session(context, "decode"),
    )
    context.log("backup: the whole archive was decoded", "ok")


def _prove_restored(context: RunContext, backup: Backup) -> None:
    """Level 2: restored into a scratch database, with as many rows in every table."""
    _restore_and(context, backup, compares_content=False)


def _prove_content(context: RunContext, backup: Backup) -> None:
    """Level 3: restored, and every table's content and every sequence equal to the snapshot's."""
    _restore_and(context, backup, compares_content=True)


def _restore_and(context: RunContext, backup: Backup, *, compares_content: bool) -> None:
    named = building.quarantined_name if backup.is_imported else building.proof_name
    scratch = named(context.dsn.database, context.run.pk)
    place = _place(context, backup)
    keeps_owners = place == context.dsn and not backup.is_imported
    where = "" if place == context.dsn else f" on {place.shown()}"
    into = "quarantine" if backup.is_imported else "a scratch database"
    context.log(f"backup: restoring it into {into}{where} to prove it")
    began = time.monotonic()
    try:
        building.build_database(context, backup, scratch, keeps_owners=keeps_owners, on=place)
        backup.restore_seconds = time.monotonic() - began
        what, problems = _look_at(context, backup, scratch, place, compares_content)
        problems += _failed_assertions(context, scratch, place)
    finally:
        building.drop_scratch(context, scratch, on=place)
    if problems:
        for line in problems[:20]:
            context.log(f"  {line}", "no")
        raise _NotProven(f"the restored copy differs from the dump: {problems[0]}")
    # It holds for this place alone: another server or role may not be able to do the same.
    backup.manifest["proven_on"] = place.role_shown()
    context.log(
        f"backup: {counted(len(backup.tables), 'table')}, {counted(backup.rows, 'row')}, {what}",
        "ok",
    )


def _place(context: RunContext, backup: Backup) -> Dsn:
    """Where it is restored: code from elsewhere runs only where it can touch nothing else."""
    if backup.is_imported:
        return quarantine.require_confined(context)
    return building.scratch_dsn(context)


def _look_at(
    context: RunContext, backup: Backup, database: str, place: Dsn, compares_content: bool
) -> tuple[str, list[str]]:
    """Compare the restored database, or count it where nothing else did; (what was done, problems)."""
    if not backup.is_counted:
        backup.manifest["content"] = building.count_content(context, database, on=place)
        return "counted and hashed", []
    if compares_content:
        return "content equal", building.compare_content(context, backup, database, on=place)
    return "row counts equal", _compare_rows(context, backup, database, place)


def _compare_rows(context: RunContext, backup: Backup, database: str, place: Dsn) -> list[str]:
    expected = backup.tables
    with context.connect("compare", database=database, on=place) as connection:
        found = content.count_rows(connection)
    return content.differences(
        {name: {"rows": table["rows"], "hash": ""} for name, table in expected.items()},
        {name: {"rows": rows, "hash": ""} for name, rows in found.items()},
    )


def _failed_assertions(context: RunContext, database: str, place: Dsn) -> list[str]:
    """The admin's own SQL, one query a line, each of which must return true."""
    problems = []
    queries = BackupPolicy.objects.of(context.environment).assertions.splitlines()
    for query in filter(None, (line.strip() for line in queries)):
        try:
            with context.connect(
                "assert", database=database, autocommit=False, on=place
            ) as connection:
                connection.execute("SET TRANSACTION READ ONLY")
                row = connection.execute(query.encode()).fetchone()
        except psycopg.Error as error:
            problems.append(f"assertion {query!r}: {reason_of(error)}")
            continue
        if row is None or row[0] is not True:
            problems.append(f"assertion {query!r} returned {row[0] if row else 'no row'}")
        else:
            context.log(f"  assertion holds: {query}", "ok")
    return problems


_PROOFS = {
    ProofLevel.CHECKSUM: _prove_checksum,
    ProofLevel.DECODED: _prove_decoded,
    ProofLevel.RESTORED: _prove_restored,
    ProofLevel.CONTENT: _prove_content,
}
