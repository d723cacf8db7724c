"""The work of taking, proving, restoring and swapping, shared by the steps of all pipelines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import Any

import psycopg
from django.conf import settings
from django.utils import timezone
from psycopg import sql

from backups_app.dump import DumpResult, ToolSession, dump_database
from backups_app.models import Backup, ReplacedDatabase
from backups_app.restore import restore_archive
from backups_app.storage import LocalStorage
from opsconsole.choices import BackupReason, ProofLevel
from opsconsole.exceptions import AdapterError, NeedsAttention, StepFailed
from opsconsole.runner.process import allowed_environment
from opsconsole.runner.step import Estimate, RunContext
from opsconsole.services.secrets import resolve_dsn
from opsconsole.targets import activity, content, server, swap
from opsconsole.targets.tools import ClientTools, choose_tools, find_tools

# pg_dump writes rows as text: on average a little less than what the table occupies.
RAW_SHARE_OF_DATABASE = 0.7


def storage() -> LocalStorage:
    return LocalStorage(settings.BACKUPS_FOLDER)


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


def require_space(context: RunContext, database_bytes: int) -> None:
    """Raise StepFailed when the backups folder cannot hold an archive of the database."""
    free = storage().free_bytes()
    if free < database_bytes:
        raise StepFailed(
            f"{free // 2**20:,} MB are free in the backups folder and the archive may need up to "
            f"{database_bytes // 2**20:,} MB: free some space and run again"
        )


def take_backup(context: RunContext, reason: BackupReason) -> Backup:
    """Dump the target in one snapshot, with what it holds counted and hashed in that snapshot."""
    key = _new_key(context)
    try:
        manifest, result = _dump(context, key)
        storage().commit(key, manifest)
    except BaseException:
        storage().discard(key)
        raise
    context.log(
        f"backup: {result.size_bytes / 1e6:,.1f} MB ({result.raw_bytes / 1e6:,.1f} MB before "
        f"compression), sha256 {result.sha256[:8]}…{result.sha256[-4:]}",
        "ok",
    )
    backup = Backup.objects.create(
        environment=context.environment,
        target=context.run.target,
        run=context.run,
        reason=reason,
        key=key,
        size_bytes=result.size_bytes,
        raw_bytes=result.raw_bytes,
        sha256=result.sha256,
        manifest=manifest,
        taken_at=manifest["taken_at"],
    )
    context.notes["backup"] = backup
    context.run.result["backup"] = backup.pk
    return backup


def _new_key(context: RunContext) -> str:
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"{context.environment.path}/{moment}-run{context.run.pk}.dump.zst"


def _dump(context: RunContext, key: str) -> tuple[dict[str, Any], DumpResult]:
    with context.connect("backup:snapshot", autocommit=False) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        row = connection.execute("SELECT pg_export_snapshot(), now()").fetchone()
        assert row is not None
        snapshot, taken_at = row
        facts = server.read_facts(connection)
        tools = tools_for(context, facts.major)
        context.log(f"backup: pg_dump {tools.version} -Fc, zstd, to {key}")
        written = activity.rows_written(connection)
        sequences_before = content.read_sequences(connection)
        last = Backup.objects.filter(target=context.run.target).first()
        estimate = Estimate(
            context, last.raw_bytes if last else facts.size_bytes * RAW_SHARE_OF_DATABASE
        )
        began = time.monotonic()
        result = dump_database(
            tools, context.dsn, storage().partial(key), snapshot=snapshot,
            session=tool_session(context, "backup:dump"), on_progress=estimate.update,
        )  # fmt: skip
        seconds = time.monotonic() - began
        context.log("backup: counting and hashing every table in the dump's snapshot")
        found = {
            "tables": content.read_tables(connection),
            "large_objects": content.read_large_objects(connection),
            "sequences_before": sequences_before,
            "sequences_after": content.read_sequences(connection),
        }
    manifest = {
        "format": "pg_dump custom, zstd",
        "archive": key,
        "environment": context.environment.path,
        "taken_at": taken_at.isoformat(),
        "dump_seconds": round(seconds, 2),
        "server": facts.as_dict(),
        "client": tools.version,
        "size_bytes": result.size_bytes,
        "raw_bytes": result.raw_bytes,
        "sha256": result.sha256,
        "rows_written": written,
        "database_oid": _oid(context),
        "content": found,
        "proof": "checksum",
    }
    return manifest, result


def _oid(context: RunContext) -> int | None:
    with context.connect("backup:oid") as connection:
        return server.database_oid(connection, context.dsn.database)


def prove_backup(context: RunContext, backup: Backup) -> None:
    """Restore the archive into a scratch database and compare all that can be compared.

    Raises StepFailed when a single row differs; the backup then stays at "checksum only".
    """
    scratch = proof_name(context.dsn.database, context.run.pk)
    context.log("backup: restoring it into a scratch database to prove it")
    began = time.monotonic()
    try:
        build_database(context, backup, scratch, keeps_owners=True)
        restored_in = time.monotonic() - began
        problems = compare_content(context, backup, scratch)
    finally:
        drop_scratch(context, scratch)
    if problems:
        for line in problems[:20]:
            context.log(f"  {line}", "no")
        raise StepFailed(f"the restored copy differs from the dump: {problems[0]}")
    backup.proof = ProofLevel.CONTENT
    backup.proven_at = timezone.now()
    backup.restore_seconds = restored_in
    backup.manifest["proof"] = "content"
    storage().write_manifest(backup.key, backup.manifest)
    backup.save(update_fields=["proof", "proven_at", "restore_seconds", "manifest"])
    tables = backup.manifest["content"]["tables"]
    context.log(f"backup: {len(tables)} tables, {backup.rows:,} rows, content equal", "ok")


def build_database(context: RunContext, backup: Backup, name: str, *, keeps_owners: bool) -> None:
    """Create `name` beside the target and restore the backup into it."""
    with context.connect("build", database=server.MAINTENANCE_DATABASE) as connection:
        server.drop_database(connection, name)
        server.create_database_like(connection, name, context.dsn.database)
        major = connection.info.server_version // 10000
    archived_by = int(str(backup.manifest["client"]).split(".")[0])
    tools = tools_for(context, major)
    if tools.major < archived_by:
        raise StepFailed(
            f"the archive was made by pg_dump {archived_by}, and a PostgreSQL {major} server "
            "needs an archive of its own version or older"
        )
    restore_archive(
        tools, context.dsn, storage().path(backup.key), database=name, sha256=backup.sha256,
        keeps_owners=keeps_owners, session=tool_session(context, "restore"),
        on_progress=Estimate(context, backup.raw_bytes).update,
    )  # fmt: skip


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


def prepare_for_swap(context: RunContext, name: str) -> None:
    """Carry over what belongs to the database rather than to its contents; gather statistics."""
    with context.connect("prepare", database=server.MAINTENANCE_DATABASE) as connection:
        for statement in _settings_to_carry(connection, context.dsn.database, name):
            try:
                connection.execute(statement)
            except psycopg.errors.InsufficientPrivilege as error:
                context.log(f"  not carried over: {server.reason_of(error)}", "hm")
    with context.connect("analyze", database=name) as connection:
        connection.execute("ANALYZE")


def _settings_to_carry(connection: psycopg.Connection, live: str, name: str) -> list[sql.Composed]:
    """Statements that give `name` the settings, rights and comment that stay with the old OID."""
    target, statements = sql.Identifier(name), []
    for role, setting in connection.execute(
        "SELECT r.rolname, unnest(s.setconfig) FROM pg_db_role_setting s JOIN pg_database d"
        " ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole WHERE d.datname = %s",
        [live],
    ):
        parameter, _equals, value = setting.partition("=")
        head = sql.SQL("ALTER ROLE {} IN DATABASE {}").format(sql.Identifier(role), target) if role else sql.SQL("ALTER DATABASE {}").format(target)  # fmt: skip  # noqa: E501
        statements.append(
            head + sql.SQL(" SET {} = {}").format(sql.Identifier(parameter), sql.Literal(value))
        )
    for role, privilege, grantable in connection.execute(
        "SELECT CASE a.grantee WHEN 0 THEN NULL ELSE pg_get_userbyid(a.grantee) END,"
        " a.privilege_type, a.is_grantable FROM pg_database d, aclexplode(d.datacl) a"
        " WHERE d.datname = %s AND a.grantee <> d.datdba",
        [live],
    ):
        to = sql.Identifier(role) if role else sql.SQL("PUBLIC")
        option = sql.SQL(" WITH GRANT OPTION" if grantable else "")
        statements.append(
            sql.SQL("GRANT {} ON DATABASE {} TO {}").format(sql.SQL(privilege), target, to) + option
        )
    row = connection.execute(
        "SELECT datconnlimit, shobj_description(oid, 'pg_database') FROM pg_database"
        " WHERE datname = %s",
        [live],
    ).fetchone()
    if row and row[0] >= 0:
        statements.append(
            sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(target, sql.Literal(row[0]))
        )
    if row and row[1]:
        statements.append(
            sql.SQL("COMMENT ON DATABASE {} IS {}").format(target, sql.Literal(row[1]))
        )
    return statements


def swap_in(context: RunContext, built: str) -> ReplacedDatabase:
    """Exchange the built database with the live one; both OIDs are kept first.

    The child that does it completes or reopens by itself. Whatever it says, the server's
    catalogue decides: raises StepFailed when the live database stayed, NeedsAttention when
    the server cannot be asked.
    """
    replaced = _record_intent(context, built)
    context.close_sessions()
    order = swap.Order(
        conninfo=context.dsn.conninfo(
            application_name=context.session_name("swap"), database=server.MAINTENANCE_DATABASE
        ),
        live=replaced.live_name,
        built=built,
        replaced=replaced.replaced_name,
    )
    said = _run_swap(context, order)
    if not settle_swap(context, replaced):
        why = next((s for s in reversed(said) if s.startswith("failed")), "the swap did not finish")
        raise StepFailed(f"the databases were not exchanged, the live one is open: {why}")
    context.run.result["replaced"] = replaced.replaced_name
    context.log(f"swap: done; the replaced database is kept as {replaced.replaced_name}", "ok")
    return replaced


def _record_intent(context: RunContext, built: str) -> ReplacedDatabase:
    live = context.dsn.database
    moment = datetime.now(UTC).strftime("%Y%m%d%H%M%S")
    with context.connect("swap:before", database=server.MAINTENANCE_DATABASE) as connection:
        old, new = server.database_oid(connection, live), server.database_oid(connection, built)
        if old is None or new is None:
            raise StepFailed("one of the two databases is gone")
        row = connection.execute("SELECT pg_database_size(%s::oid)", [old]).fetchone()
        foreign = sessions_not_ours_to_end(connection, live)
    if foreign:
        raise StepFailed(
            f"sessions of a role this one may not end are in the way: {', '.join(foreign)}"
        )
    return ReplacedDatabase.objects.create(
        target=context.run.target,
        run=context.run,
        live_name=live,
        built_name=built,
        replaced_name=server.name_beside(live, f"__old_{moment}_{context.run.pk}"),
        old_oid=old,
        new_oid=new,
        size_bytes=row[0] if row else 0,
    )


def sessions_not_ours_to_end(connection: psycopg.Connection, database: str) -> list[str]:
    """Names of roles with sessions in the database that this role may not end."""
    rows = connection.execute(
        "SELECT DISTINCT usename::text FROM pg_stat_activity WHERE datname = %s AND usename IS NOT"
        " NULL AND NOT pg_has_role(current_user, usesysid, 'MEMBER')"
        " AND NOT pg_has_role(current_user, 'pg_signal_backend', 'MEMBER')",
        [database],
    )
    return [row[0] for row in rows]


def _run_swap(context: RunContext, order: swap.Order) -> list[str]:
    """Start the child in a session of its own, and log each sub-step as it is told."""
    said: list[str] = []
    child = subprocess.Popen(
        [sys.executable, "-m", "opsconsole.targets.swap"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd=settings.BASE_DIR,
        env=allowed_environment(PYTHONPATH=os.pathsep.join(sys.path)),
    )
    assert child.stdin is not None
    assert child.stdout is not None
    with child:
        child.stdin.write(order.as_json().encode() + b"\n")
        child.stdin.close()
        for line in child.stdout:
            said.append(str(json.loads(line)["step"]))
            context.log(f"swap: {said[-1]}")
    return said


def settle_swap(context: RunContext, replaced: ReplacedDatabase) -> bool:
    """Read from the catalogue whether the swap happened, reopen what is closed, record it."""
    for _attempt in range(20):
        try:
            with server.connect(
                context.dsn,
                application_name=context.session_name("settle"),
                database=server.MAINTENANCE_DATABASE,
            ) as connection:
                happened = reconcile_swap(connection, replaced)
        except (AdapterError, psycopg.Error):
            time.sleep(0.25)
        else:
            return happened
    raise NeedsAttention(
        "The server cannot be asked whether the databases were exchanged. "
        f"Compare the OID of {replaced.live_name}: {replaced.old_oid} is the old database, "
        f"{replaced.new_oid} the restored one."
    )


def reconcile_swap(connection: psycopg.Connection, replaced: ReplacedDatabase) -> bool:
    """Whether the live name belongs to the new OID; opens it either way. Idempotent."""
    oid = server.database_oid(connection, replaced.live_name)
    swap.set_open(connection, replaced.live_name, is_open=True)
    happened = oid == replaced.new_oid
    if happened and replaced.swapped_at is None:
        replaced.swapped_at = timezone.now()
        replaced.save(update_fields=["swapped_at"])
    return happened


def drop_replaced_database(replaced: ReplacedDatabase) -> None:
    """Drop it on the server, if its name still belongs to the database that was replaced."""
    dsn = resolve_dsn(replaced.target)
    with server.connect(
        dsn, application_name="opsconsole:drop", database=server.MAINTENANCE_DATABASE
    ) as connection:
        if server.database_oid(connection, replaced.replaced_name) == replaced.old_oid:
            server.drop_database(connection, replaced.replaced_name)
