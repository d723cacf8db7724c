"""The steps of taking, proving and restoring backups."""

from __future__ import annotations

from backups_app import work
from backups_app.models import Backup
from opsconsole.choices import BackupReason
from opsconsole.exceptions import StepFailed
from opsconsole.runner.step import RunContext, Step
from opsconsole.targets import server


class BackupPreflight(Step):
    name = "preflight"

    def run(self, context: RunContext) -> str:
        with context.connect("preflight") as connection:
            facts = server.read_facts(connection)
        tools = work.tools_for(context, facts.major)
        work.require_space(context, facts.size_bytes)
        if not facts.may_create_databases:
            raise StepFailed(
                f"the role {facts.user} may not create databases, so no backup could be proven: "
                f"ALTER ROLE {facts.user} CREATEDB"
            )
        context.log(
            f"preflight: PostgreSQL {facts.version}, pg_dump {tools.version}, "
            f"{facts.size_bytes / 1e6:,.1f} MB"
        )
        return f"PostgreSQL {facts.version}, {facts.size_bytes / 1e6:,.1f} MB"


class TakeBackup(Step):
    name = "backup"

    def __init__(self, reason: BackupReason) -> None:
        self.reason = reason

    def run(self, context: RunContext) -> str:
        backup = work.take_backup(context, self.reason)
        return f"{backup.size_bytes / 1e6:,.1f} MB"


class ProveBackup(Step):
    name = "prove"

    def run(self, context: RunContext) -> str:
        backup: Backup = context.notes["backup"]
        work.prove_backup(context, backup)
        return f"content equal, {backup.rows:,} rows"


class TakeProvenBackup(Step):
    """Both in one step, as part of a migration."""

    name = "backup"

    def __init__(self, reason: BackupReason) -> None:
        self.reason = reason

    def run(self, context: RunContext) -> str:
        backup = work.take_backup(context, self.reason)
        work.prove_backup(context, backup)
        return f"proven: content equal, {backup.size_bytes / 1e6:,.1f} MB"


class ProveAgain(Step):
    name = "prove"

    def run(self, context: RunContext) -> str:
        backup = Backup.objects.get(pk=context.run.parameters["backup"])
        context.notes["backup"] = backup
        context.run.result["backup"] = backup.pk
        work.prove_backup(context, backup)
        return f"content equal, restored in {backup.restore_seconds:,.1f} s"


class RestorePreflight(Step):
    name = "preflight"

    def run(self, context: RunContext) -> str:
        backup = Backup.objects.get(pk=context.run.parameters["backup"])
        context.notes["backup"] = backup
        with context.connect("preflight") as connection:
            facts = server.read_facts(connection)
            prepared = connection.execute(
                "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()"
            ).fetchone()
            slots = connection.execute(
                "SELECT slot_name FROM pg_replication_slots WHERE database = current_database()"
            ).fetchall()
        if prepared and prepared[0]:
            raise StepFailed(
                f"{prepared[0]} prepared transactions block the exchange: COMMIT PREPARED or "
                "ROLLBACK PREPARED them first (pg_prepared_xacts lists them)"
            )
        if slots:
            raise StepFailed(
                f"the logical replication slot {slots[0][0]} would stay with the replaced "
                "database: drop it first"
            )
        if not (facts.may_create_databases and facts.owns_database):
            raise StepFailed(
                f"the role {facts.user} must own {facts.database} and may create databases to "
                "exchange it for a restored one"
            )
        work.tools_for(context, facts.major)
        context.log(
            f"preflight: PostgreSQL {facts.version}; backup {backup.pk}, {backup.rows:,} rows"
        )
        return "nothing blocks"


class BuildReplacement(Step):
    """Restore beside the live database and compare with the manifest; the live one is not touched."""

    name = "restore"

    def run(self, context: RunContext) -> str:
        backup: Backup = context.notes["backup"]
        name = work.built_name(context.dsn.database, context.run.pk)
        context.log(f"restore: building {name} beside the live database")
        keeps_owners = backup.target_id == context.run.target_id
        work.build_database(context, backup, name, keeps_owners=keeps_owners)
        problems = work.compare_content(context, backup, name)
        if problems:
            raise StepFailed(f"the restored copy differs from the backup: {problems[0]}")
        work.prepare_for_swap(context, name)
        context.notes["built"] = name
        context.log(f"restore: {backup.rows:,} rows, content equal", "ok")
        return f"{backup.rows:,} rows, content equal"


class SwapIn(Step):
    name = "swap"

    def run(self, context: RunContext) -> str:
        replaced = work.swap_in(context, context.notes["built"])
        return f"replaced database kept as {replaced.replaced_name}"
