"""Databases built from a backup beside the target: to prove it, or to be swapped in."""

from __future__ import annotations

from pathlib import Path

import psycopg
from django.conf import settings

from backups_app import copies
from backups_app.dump import ToolSession
from backups_app.models import Backup, BackupPolicy
from backups_app.restore import Restoration, restore_archive
from opsconsole.exceptions import StepFailed
from opsconsole.runner.step import Estimate, RunContext
from opsconsole.targets import content, server
from opsconsole.targets.tools import ClientTools, choose_tools, find_tools


def proof_name(database: str, run_id: int) -> str:
    return server.name_beside(database, f"__proof{run_id}")


def built_name(database: str, run_id: int) -> str:
    return server.name_beside(database, f"__new{run_id}")


def tools_for(context: RunContext, major: int) -> ClientTools:
    found = find_tools(settings.PG_TOOLS_FOLDERS)
    return choose_tools(found, server_major=major, is_local=context.dsn.is_local)


def tool_session(context: RunContext, part: str) -> ToolSession:
    return ToolSession(
        application_name=context.session_name(part),
        on_line=lambda line: context.log(f"  {line}"),
        is_stopping=lambda: context.is_stopping,
        heartbeat_seconds=settings.TOOL_HEARTBEAT_SECONDS,
        grace_seconds=settings.TOOL_TERM_GRACE_SECONDS,
    )


def scratch_folder() -> Path:
    """Where archives are unpacked for parallel work, private to the console's account."""
    return Path(settings.BACKUPS_SCRATCH)


def require_restorer(tools: ClientTools, backup: Backup) -> None:
    """Raise StepFailed when pg_restore is older than the pg_dump that made the archive."""
    archived_by = int(str(backup.manifest["client"]).split(".")[0])
    if tools.major < archived_by:
        raise StepFailed(
            f"the archive was made by pg_dump {archived_by}, and a PostgreSQL {tools.major} server "
            "needs an archive of its own version or older"
        )


def build_database(context: RunContext, backup: Backup, name: str, *, keeps_owners: bool) -> None:
    """Create `name` beside the target and restore the backup into it."""
    with context.connect("build", database=server.MAINTENANCE_DATABASE) as connection:
        server.drop_database(connection, name)
        server.create_database_like(connection, name, context.dsn.database)
        major = connection.info.server_version // 10000
    tools = tools_for(context, major)
    require_restorer(tools, backup)
    how = Restoration(
        database=name,
        format=backup.form.format,
        jobs=BackupPolicy.objects.of(context.environment).jobs,
        keeps_owners=keeps_owners,
        scratch_folder=scratch_folder(),
    )
    if how.needs_folder:
        copies.require_space(scratch_folder(), backup.raw_bytes, "the temporary folder")
    restore_archive(
        tools, context.dsn, how, copies.reader(context, backup),
        session=tool_session(context, "restore"),
        on_progress=Estimate(context, backup.raw_bytes).update,
    )  # fmt: skip


def mask_if_needed(context: RunContext, backup: Backup, database: str) -> None:
    """Run the masking script of the backup's environment when its data goes to another one.

    Raises StepFailed with the script's error: nothing unmasked is then swapped in.
    """
    script = BackupPolicy.objects.of(backup.environment).masking_sql.strip()
    if backup.environment_id == context.environment.pk or not script:
        return
    context.log(f"restore: masking the data of {backup.environment}")
    try:
        with context.connect("mask", database=database, autocommit=False) as connection:
            connection.execute(script.encode())
    except psycopg.Error as error:
        raise StepFailed(f"the masking script failed: {server.reason_of(error)}") from error
    context.log("restore: masked", "ok")


def compare_content(context: RunContext, backup: Backup, database: str) -> list[str]:
    """Differences between what the manifest says and what the database holds, one line each."""
    expected = backup.manifest["content"]
    with context.connect("compare", database=database) as connection:
        problems = content.differences(expected["tables"], content.read_tables(connection))
        problems += content.sequence_differences(
            expected["sequences_before"],
            expected["sequences_after"],
            content.read_sequences(connection),
        )
        if content.read_large_objects(connection) != expected["large_objects"]:
            problems.append("large objects differ")
    return problems


def drop_scratch(context: RunContext, name: str) -> None:
    """Drop a scratch database of this run, on a session that a stop does not touch."""
    with server.connect(
        context.dsn,
        application_name=context.session_name("cleanup"),
        database=server.MAINTENANCE_DATABASE,
    ) as connection:
        server.drop_database(connection, name)
