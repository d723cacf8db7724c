"""Databases built from a backup beside the target: to prove it, or to be swapped in."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import psycopg
from django.conf import settings
from psycopg import sql

from backups_app import copies
from backups_app.archives.dump import ToolSession
from backups_app.archives.restore import Restoration, entries_of, restore_archive
from backups_app.models import Backup, BackupPolicy
from backups_app.runs.restorable import require_restorable
from backups_app.services import consent
from opsconsole.environments import obstacles, secrets
from opsconsole.environments.obstacles import Need
from opsconsole.environments.readings import ServerRead
from opsconsole.environments.survey import survey, tools_for
from opsconsole.exceptions import AdapterError, StepFailed
from opsconsole.runs.step import Estimate, RunContext
from opsconsole.sentences import say
from opsconsole.targets import content, ddl_log, extensions, server
from opsconsole.targets.dsn import Dsn
from opsconsole.targets.ownership import out_of_reach
from opsconsole.targets.server import ServerFacts
from opsconsole.targets.tools import ClientTools

# What pg_restore says where code of the database finds nothing without a schema before the name.
NOT_FOUND = re.compile(r"(function|relation|type|operator) [^.]+ does not exist")


def proof_name(database: str, run_id: int) -> str:
    return server.name_beside(database, f"__proof{run_id}")


def quarantined_name(database: str, run_id: int) -> str:
    return server.name_beside(database, f"__quarantine{run_id}")


def built_name(database: str, run_id: int) -> str:
    return server.name_beside(database, f"__new{run_id}")


def scratch_dsn(context: RunContext) -> Dsn:
    """Where scratch databases are built: the target's scratch server, or its own server."""
    if not context.run.target.scratch_dsn_encrypted:
        return context.dsn
    place = secrets.resolve_scratch_dsn(context.run.target)
    context.recorder.hide(place.password)
    return place


def tool_session(context: RunContext, part: str) -> ToolSession:
    return ToolSession(
        application_name=context.session_name(part),
        on_line=lambda line: context.log(f"  {line}"),
        is_stopping=lambda: context.is_stopping,
        heartbeat_seconds=settings.TOOL_HEARTBEAT_SECONDS,
        grace_seconds=settings.TOOL_TERM_GRACE_SECONDS,
    )


def look_at_target(context: RunContext) -> ServerRead:
    """What stands for and against a run there, read now."""
    with context.connect("preflight") as connection:
        return ServerRead.model_validate(survey(context.dsn, connection).as_dict())


def refuse_obstacles(context: RunContext, read: ServerRead, needs: set[Need]) -> None:
    """Raise StepFailed with what stops a run that needs all this of its target.

    A backup is proven beside it, unless there is a scratch server.
    """
    if Need.DUMP in needs and scratch_dsn(context) == context.dsn:
        needs = needs | {Need.BUILD}
    policy = BackupPolicy.objects.of(context.environment)
    jobs = policy.jobs if policy.format != BackupPolicy.Format.CUSTOM else 0
    changes = needs & {Need.MIGRATE, Need.EXCHANGE}
    sessions = obstacles.SESSIONS if changes else obstacles.SESSIONS_OF_A_BACKUP
    obstacles.refuse_obstacles(read, needs, sessions=sessions + jobs)


def require_scratch(context: RunContext) -> None:
    """Raise StepFailed when no backup could be whole or restored where it is proven: here, or on
    the scratch server."""
    place = scratch_dsn(context)
    require_restorable(context, is_proven_here=place == context.dsn)
    if place == context.dsn:
        return
    facts = _facts_of(context, place)
    context.log(f"preflight: scratch server {place.shown()}, PostgreSQL {facts.version}")
    read = ServerRead.model_validate(facts.as_dict())
    obstacles.refuse_obstacles(read, {Need.BUILD})


def _facts_of(context: RunContext, place: Dsn) -> ServerFacts:
    try:
        with context.connect("scratch", database=place.maintenance_database, on=place) as session:
            return survey(place, session)
    except AdapterError as error:
        raise StepFailed(
            say("the scratch server %(place)s: %(error)s", place=place.shown(), error=error.text)
        ) from error


def scratch_folder() -> Path:
    """Where archives are unpacked for parallel work, private to the console's account."""
    return Path(settings.BACKUPS_SCRATCH)


def require_restorer(tools: ClientTools, backup: Backup) -> None:
    """Raise StepFailed when pg_restore is older than the pg_dump that made the archive."""
    archived_by = int(str(backup.manifest["client"]).split(".")[0])
    if tools.major < archived_by:
        raise StepFailed(
            say(
                "the archive was made by pg_dump %(made_by)s, and a PostgreSQL %(major)s server needs an "
                "archive of its own version or older",
                made_by=archived_by,
                major=tools.major,
            )
        )


def build_database(
    context: RunContext, backup: Backup, name: str, *, keeps_owners: bool, on: Dsn | None = None
) -> None:
    """Create `name` beside the target, or on another server, and restore the backup into it."""
    place = on or context.dsn
    with context.connect("shape", database=context.dsn.maintenance_database) as connection:
        shape = server.read_shape(connection, context.dsn.database)
    with context.connect("build", database=place.maintenance_database, on=place) as connection:
        schemas = _schemas_of_others(connection, backup) if keeps_owners else {}
        server.drop_database(connection, name)
        server.create_database(
            connection,
            name,
            shape if place == context.dsn else replace(shape, owner=None, tablespace=None),
        )
        facts = server.read_facts(connection)
    tools = tools_for(place, facts.major)
    require_restorer(tools, backup)
    with context.connect("build", database=name, on=place) as connection:
        _make_schemas(context, connection, schemas)
        extensions.begin_restore(connection, backup.extensions)
    takes_one_job = extensions.takes_one_job(backup.extensions)
    how = Restoration(
        database=name,
        format=backup.form.format,
        jobs=1 if takes_one_job else BackupPolicy.objects.of(context.environment).jobs,
        keeps_owners=keeps_owners,
        scratch_folder=scratch_folder(),
        without=_entries_left_out(context, backup, facts, schemas),
    )
    if how.needs_folder:
        copies.require_space(scratch_folder(), backup.raw_bytes, "the temporary folder")
    try:
        restore_archive(
            tools,
            place,
            how,
            copies.reader(context, backup),
            session=tool_session(context, "restore"),
            on_progress=Estimate(context, backup.raw_bytes).update,
        )
    except AdapterError as error:
        if NOT_FOUND.search(str(error)):
            raise AdapterError(
                say(
                    "%(error)s. Something in the database, such as a function that an index, a column "
                    "or a view calls, relies on search_path, which is empty in every restore: ALTER "
                    "FUNCTION ... SET search_path, or name the schema in it",
                    error=error.text,
                )
            ) from error
        raise


def _schemas_of_others(connection: psycopg.Connection, backup: Backup) -> dict[str, str]:
    """`{schema: owner}` of those whose owner this role cannot act as, as where a provider keeps
    the extensions: it makes them as its own."""
    if backup.owned is None:
        return {}
    return backup.owned.schemas_of(out_of_reach(connection, set(backup.owned.schemas.values())))


def _make_schemas(
    context: RunContext, connection: psycopg.Connection, schemas: dict[str, str]
) -> None:
    for schema, owner in schemas.items():
        context.log(f"restore: the schema {schema} is made as this role's own, not {owner}'s", "hm")
        connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))


def _entries_left_out(
    context: RunContext, backup: Backup, facts: ServerFacts, schemas: Iterable[str]
) -> tuple[str, ...]:
    lost = backup.event_triggers_lost(facts)
    if lost:
        names = ", ".join(each.name for each in lost)
        context.log(
            f"restore: without these event triggers and their functions, as {facts.user} is no "
            f"superuser: {names}",
            "hm",
        )
    logs = [each for each in backup.event_triggers if each.name in ddl_log.TRIGGERS]
    only_there = extensions.left_out(backup.extensions)
    if only_there:
        context.log(
            "restore: without pg_cron and its jobs, which can be in one database of a server only",
            "hm",
        )
    return (*entries_of([*lost, *logs]), *(f"SCHEMA - {name} " for name in schemas), *only_there)


def build_copy(context: RunContext, backup: Backup, name: str) -> None:
    """Restore the backup into a new database beside the live one, compared with the manifest and
    masked where it goes to another environment.

    Raises StepFailed when a single row differs.
    """
    build_database(
        context, backup, name, keeps_owners=backup.keeps_owners_in(context.run.target_id)
    )
    problems = compare_content(context, backup, name)
    if problems:
        raise StepFailed(
            say("the restored copy differs from the backup: %(problem)s", problem=problems[0])
        )
    with context.connect("build", database=name) as connection:
        extensions.end_restore(connection, backup.extensions)
    mask_if_needed(context, backup, name)


def mask_if_needed(context: RunContext, backup: Backup, database: str) -> None:
    """Run the masking script of the backup's environment when its data goes to another one.

    Raises StepFailed with the script's error, and Refused when there is no script any more and who
    asked may not take the data out: nothing unmasked is then swapped in.
    """
    consent.require_restore(context.run.requested_by, backup, context.environment)
    script = BackupPolicy.objects.of(backup.environment).masking_sql.strip()
    if backup.environment_id == context.environment.pk or not script:
        return
    context.log(f"restore: masking the data of {backup.environment}")
    try:
        with context.connect("mask", database=database, autocommit=False) as connection:
            connection.execute(script.encode())
    except psycopg.Error as error:
        raise StepFailed(
            say("the masking script failed: %(error)s", error=server.reason_of(error))
        ) from error
    context.log("restore: masked", "ok")


def compare_content(
    context: RunContext, backup: Backup, database: str, *, on: Dsn | None = None
) -> list[str]:
    """Differences between what the manifest says and what the database holds, one line each."""
    expected = backup.manifest["content"]
    with context.connect("compare", database=database, on=on) as connection:
        found = content.read_tables(connection, like=expected["tables"])
        problems = content.differences(expected["tables"], found)
        problems += content.sequence_differences(
            expected["sequences_before"],
            expected["sequences_after"],
            content.read_sequences(connection),
        )
        if content.read_large_objects(connection) != expected["large_objects"]:
            problems.append("large objects differ")
    return problems


def count_content(context: RunContext, database: str, *, on: Dsn) -> content.DatabaseContent:
    """What a restored database holds, as the content of a manifest."""
    with context.connect("count", database=database, on=on) as connection:
        sequences = content.read_sequences(connection)
        return {
            "tables": content.read_tables(connection),
            "large_objects": content.read_large_objects(connection),
            "sequences_before": sequences,
            "sequences_after": sequences,
        }


def drop_scratch(context: RunContext, *names: str, on: Dsn | None = None) -> None:
    """Drop scratch databases of this run, on a session that a stop does not touch.

    A server that the run never reached holds none, and nobody waits for it.
    """
    place = on or context.dsn
    if not context.has_reached(place):
        return
    with server.connect(
        place,
        application_name=context.session_name("cleanup"),
        database=place.maintenance_database,
    ) as connection:
        for name in names:
            server.drop_database(connection, name)
