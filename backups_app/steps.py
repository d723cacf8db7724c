"""The steps of taking, proving and restoring backups."""

from __future__ import annotations

from backups_app import building, importing, proving, restore_check, swapping, taking
from backups_app.models import Backup, ReplacedDatabase
from backups_app.parameters import (
    ImportParameters,
    OfBackup,
    ProveParameters,
    RestoreAsParameters,
    UndoParameters,
)
from backups_app.results import RestoreAsResult, WithBackup, WithReplaced
from backups_app.taking import BACKUP
from opsconsole.choices import BackupReason, ProofLevel
from opsconsole.exceptions import StepFailed
from opsconsole.runner.documents import Parameters
from opsconsole.runner.step import Note, RunContext, Step
from opsconsole.targets import server

RESTORES = Note[Backup]("backup to restore")
BUILT = Note[str]("name of the built database")
UNDOES = Note[ReplacedDatabase]("replaced database to bring back")


class BackupPreflight(Step):
    name = "preflight"

    def run(self, context: RunContext) -> str:
        with context.connect("preflight") as connection:
            facts = server.read_facts(connection)
        tools = building.tools_for(context.dsn, facts.major)
        taking.require_space(context, facts.size_bytes)
        building.require_scratch(context, facts)
        context.log(
            f"preflight: PostgreSQL {facts.version}, pg_dump {tools.version}, "
            f"{facts.size_bytes / 1e6:,.1f} MB"
        )
        return f"PostgreSQL {facts.version}, {facts.size_bytes / 1e6:,.1f} MB"


class TakeBackup(Step[Parameters, WithBackup]):
    name = "backup"

    def __init__(self, reason: BackupReason) -> None:
        self.reason = reason

    def run(self, context: RunContext[Parameters, WithBackup]) -> str:
        backup = taking.take_backup(context, self.reason)
        return f"{backup.size_bytes / 1e6:,.1f} MB"


class ProveBackup(Step):
    name = "prove"

    def run(self, context: RunContext) -> str:
        backup = context.get(BACKUP)
        proving.prove_backup(context, backup)
        return f"content equal, {backup.rows:,} rows"


class ImportPreflight(Step):
    """What an import needs of the servers: the source and the disk are found out by reading."""

    name = "preflight"

    def run(self, context: RunContext) -> str:
        with context.connect("preflight") as connection:
            facts = server.read_facts(connection)
        building.require_scratch(context, facts)
        return f"PostgreSQL {facts.version}"


class ImportArchive(Step[ImportParameters, WithBackup]):
    name = "import"

    def run(self, context: RunContext[ImportParameters, WithBackup]) -> str:
        backup = importing.import_archive(context)
        return f"{backup.size_bytes / 1e6:,.1f} MB, in quarantine"


class ReleaseFromQuarantine(Step):
    """Restore it into a scratch database; what that then holds is what it is compared with later."""

    name = "prove"

    def run(self, context: RunContext) -> str:
        backup = context.get(BACKUP)
        proving.prove_backup(context, backup, ProofLevel.RESTORED)
        return f"restored, {backup.rows:,} rows"


class CopyBackup(Step):
    """To the policy's other storages; one that fails leaves the others and the backup as they are."""

    name = "copy"

    def run(self, context: RunContext) -> str:
        problems = taking.copy_backup(context, context.get(BACKUP))
        if problems:
            raise StepFailed(f"the backup is proven, but not copied everywhere: {problems[0]}")
        return "in every storage of the policy"


class TakeProvenBackup(Step[Parameters, WithBackup]):
    """Both in one step, as part of a run that changes the database."""

    name = "backup"

    def __init__(self, reason: BackupReason) -> None:
        self.reason = reason

    def run(self, context: RunContext[Parameters, WithBackup]) -> str:
        backup = taking.take_backup(context, self.reason)
        proving.prove_backup(context, backup)
        # A copy that fails is told, and does not stop the run: one proven backup is there.
        taking.copy_backup(context, backup)
        return f"proven: content equal, {backup.size_bytes / 1e6:,.1f} MB"


class ProveAgain(Step[ProveParameters, WithBackup]):
    name = "prove"

    def run(self, context: RunContext[ProveParameters, WithBackup]) -> str:
        backup = Backup.objects.get(pk=context.parameters.backup)
        context.put(BACKUP, backup)
        context.result.backup = backup.pk
        level = context.parameters.level
        proving.prove_backup(context, backup, level)
        if level >= ProofLevel.RESTORED:
            return f"{level.label}, restored in {backup.restore_seconds:,.1f} s"
        return str(level.label)


class RestorePreflight(Step[OfBackup]):
    """`exchanges`: whether the restored database is to take the live one's place."""

    name = "preflight"

    def __init__(self, *, exchanges: bool) -> None:
        self.exchanges = exchanges

    def run(self, context: RunContext[OfBackup]) -> str:
        backup = Backup.objects.get(pk=context.parameters.backup)
        context.put(RESTORES, backup)
        with context.connect("preflight") as connection:
            findings = restore_check.find(
                connection,
                backup,
                is_local=context.dsn.is_local,
                keeps_owners=backup.keeps_owners_in(context.run.target_id),
                exchanges=self.exchanges,
            )
        for finding in findings:
            context.log(f"preflight: {finding.what}: {finding.text}", "" if finding.is_ok else "no")
        blocking = [finding.text for finding in findings if not finding.is_ok]
        if blocking:
            raise StepFailed(blocking[0])
        return "nothing blocks"


class BuildReplacement(Step):
    """Restore beside the live database and compare with the manifest; the live one is not touched."""

    name = "restore"

    def run(self, context: RunContext) -> str:
        backup = context.get(RESTORES)
        context.put(BUILT, swapping.build_replacement(context, backup))
        return f"{backup.rows:,} rows, content equal"


class BuildNewDatabase(Step[RestoreAsParameters, RestoreAsResult]):
    """Restore into a new database of the same server, which stays there under its own name."""

    name = "restore"

    def run(self, context: RunContext[RestoreAsParameters, RestoreAsResult]) -> str:
        backup = context.get(RESTORES)
        name = context.parameters.database
        built = building.built_name(context.dsn.database, context.run.pk)
        with context.connect("new", database=server.MAINTENANCE_DATABASE) as connection:
            if server.database_oid(connection, name) is not None:
                raise StepFailed(f"there already is a database {name}: choose another name")
        keeps_owners = backup.keeps_owners_in(context.run.target_id)
        building.build_database(context, backup, built, keeps_owners=keeps_owners)
        problems = building.compare_content(context, backup, built)
        if problems:
            raise StepFailed(f"the restored copy differs from the backup: {problems[0]}")
        building.mask_if_needed(context, backup, built)
        context.close_sessions()
        with context.connect("new", database=server.MAINTENANCE_DATABASE) as connection:
            server.rename_database(connection, built, name)
        context.result.database = name
        context.log(f"restore: {backup.rows:,} rows in {name}, content equal", "ok")
        return f"{backup.rows:,} rows in {name}, content equal"


class UndoPreflight(Step[UndoParameters]):
    name = "preflight"

    def run(self, context: RunContext[UndoParameters]) -> str:
        replaced = ReplacedDatabase.objects.get(pk=context.parameters.replaced)
        with context.connect("preflight", database=server.MAINTENANCE_DATABASE) as connection:
            kept = server.database_oid(connection, replaced.replaced_name)
            live = server.database_oid(connection, replaced.live_name)
        if kept != replaced.old_oid:
            raise StepFailed(f"{replaced.replaced_name} is no longer on the server")
        if live != replaced.new_oid:
            raise StepFailed(
                f"{replaced.live_name} is not the database that this restore made: another one "
                "has replaced it since"
            )
        context.put(UNDOES, replaced)
        return f"{replaced.replaced_name} is there, closed"


class SwapBack(Step[Parameters, WithReplaced]):
    """Exchange the live database with the one that it had replaced."""

    name = "swap"

    def run(self, context: RunContext[Parameters, WithReplaced]) -> str:
        undoes = context.get(UNDOES)
        replaced = swapping.swap_in(context, undoes.replaced_name, undoes)
        return f"undone; the restored database is kept as {replaced.replaced_name}"


class SwapIn(Step[Parameters, WithReplaced]):
    name = "swap"

    def run(self, context: RunContext[Parameters, WithReplaced]) -> str:
        replaced = swapping.swap_in(context, context.get(BUILT))
        return f"replaced database kept as {replaced.replaced_name}"
