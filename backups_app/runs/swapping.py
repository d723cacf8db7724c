"""Exchange a built database with the live one, and know afterwards which is which."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime

import psycopg
from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now
from psycopg import sql

from backups_app.models import Backup, ReplacedDatabase
from backups_app.runs import building
from backups_app.runs.results import WithReplaced
from opsconsole.environments.secrets import resolve_dsn
from opsconsole.exceptions import AdapterError, NeedsAttention, StepFailed
from opsconsole.formats import counted
from opsconsole.processes.process import allowed_environment
from opsconsole.runs.documents import Parameters
from opsconsole.runs.patience import patiently, save_new
from opsconsole.runs.step import RunContext
from opsconsole.sentences import say
from opsconsole.targets import server, swap

# Settings whose value is a list of names; the others are one text (pg_dump's
# variable_is_guc_list_quote).
LISTS_OF_NAMES = {
    "local_preload_libraries", "search_path", "session_preload_libraries",
    "shared_preload_libraries", "temp_tablespaces", "unix_socket_directories",
}  # fmt: skip
NAME_IN_LIST = re.compile(r'"((?:[^"]|"")*)"|([^\s,"]+)')


def prepare_for_swap(context: RunContext, name: str) -> None:
    """Carry over what belongs to the database rather than to its contents; gather statistics."""
    with context.connect("prepare", database=context.dsn.maintenance_database) as connection:
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
        head = (
            sql.SQL("ALTER ROLE {} IN DATABASE {}").format(sql.Identifier(role), target)
            if role
            else sql.SQL("ALTER DATABASE {}").format(target)
        )
        values = _listed(value) if parameter.lower() in LISTS_OF_NAMES else [value]
        statements.append(
            head
            + sql.SQL(" SET {} = ").format(sql.Identifier(*parameter.split(".")))
            + sql.SQL(", ").join(map(sql.Literal, values))
        )
    statements += _rights_to_carry(connection, live, target)
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


def _rights_to_carry(
    connection: psycopg.Connection, live: str, target: sql.Identifier
) -> list[sql.Composed]:
    """Nothing for a database that has the rights of a new one; else these, and no other."""
    rows = connection.execute(
        "SELECT pg_get_userbyid(d.datdba),"
        " CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee) END, a.privilege_type,"
        " a.is_grantable"
        " FROM pg_database d LEFT JOIN LATERAL aclexplode(d.datacl) a ON true"
        " WHERE d.datname = %s AND d.datacl IS NOT NULL",
        [live],
    ).fetchall()
    if not rows:
        return []
    owner = sql.Identifier(rows[0][0])
    revoke = sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC, {}").format(target, owner)
    grants = [
        sql.SQL("GRANT {} ON DATABASE {} TO {}").format(
            sql.SQL(privilege), target, sql.Identifier(role) if role else sql.SQL("PUBLIC")
        )
        + sql.SQL(" WITH GRANT OPTION" if grantable else "")
        for _owner, role, privilege, grantable in rows
        if privilege
    ]
    return [revoke, *grants]


def _listed(value: str) -> list[str]:
    """The names in a setting's value as the catalogue has it: `app, "a, b"` (SplitGUCList)."""
    return [quoted.replace('""', '"') or plain for quoted, plain in NAME_IN_LIST.findall(value)]


def build_replacement(context: RunContext, backup: Backup) -> str:
    """Restore beside the live database and compare with the manifest; returns the built one's name.

    The live database is not touched. Raises StepFailed when a single row differs.
    """
    name = building.built_name(context.dsn.database, context.run.pk)
    context.log(f"restore: building {name} beside the live database")
    building.build_copy(context, backup, name)
    prepare_for_swap(context, name)
    context.log(f"restore: {counted(backup.rows, 'row')}, content equal", "ok")
    return name


def swap_in(
    context: RunContext[Parameters, WithReplaced],
    built: str,
    undoes: ReplacedDatabase | None = None,
) -> ReplacedDatabase:
    """Exchange the built database with the live one; both OIDs are kept first.

    `undoes` is the swap that is taken back, when `built` is what it replaced.

    The child that does it completes or reopens by itself. Whatever it says, the server's
    catalogue decides: raises StepFailed when the live database stayed, NeedsAttention when
    the server cannot be asked.
    """
    replaced = _record_intent(context, built, undoes)
    if undoes:
        # A replaced database is closed; it has to be open when it takes the live name.
        _open(context, built)
    context.close_sessions()
    # What was recorded may have waited longer than the lease: nothing stops the child.
    context.check()
    order = swap.Order(
        dsn=context.dsn,
        application_name=context.session_name("swap"),
        live=replaced.live_name,
        built=built,
        replaced=replaced.replaced_name,
    )
    said = _run_swap(context, order)
    if not settle_swap(context, replaced):
        why = next((s for s in reversed(said) if s.startswith("failed")), "the swap did not finish")
        raise StepFailed(
            say("the databases were not exchanged, the live one is open: %(why)s", why=why)
        )
    context.result.replaced = replaced.replaced_name
    context.log(f"swap: done; the replaced database is kept as {replaced.replaced_name}", "ok")
    return replaced


def _record_intent(
    context: RunContext, built: str, undoes: ReplacedDatabase | None
) -> ReplacedDatabase:
    live = context.dsn.database
    moment = datetime.now(UTC).strftime("%Y%m%d%H%M%S")
    with context.connect("swap:before", database=context.dsn.maintenance_database) as connection:
        old, new = server.database_oid(connection, live), server.database_oid(connection, built)
        if old is None or new is None:
            raise StepFailed(say("one of the two databases is gone"))
        row = connection.execute("SELECT pg_database_size(%s::oid)", [old]).fetchone()
        foreign = sessions_not_ours_to_end(connection, live)
    if foreign:
        raise StepFailed(
            say(
                "sessions of a role this one may not end are in the way: %(foreign)s",
                foreign=", ".join(foreign),
            )
        )
    replaced = ReplacedDatabase(
        undoes=undoes,
        target=context.run.target,
        run=context.run,
        live_name=live,
        built_name=built,
        replaced_name=server.name_beside(live, f"__old_{moment}_{context.run.pk}"),
        old_oid=old,
        new_oid=new,
        size_bytes=row[0] if row else 0,
    )
    save_new(replaced)
    return replaced


def _open(context: RunContext, name: str) -> None:
    with context.connect("swap:before", database=context.dsn.maintenance_database) as connection:
        swap.set_open(connection, name, is_open=True)


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
    happened = _reconcile(context, replaced)
    if happened:
        patiently(lambda: record_exchange(replaced))
    return happened


def _reconcile(context: RunContext, replaced: ReplacedDatabase) -> bool:
    for _attempt in range(20):
        try:
            with server.connect(
                context.dsn,
                application_name=context.session_name("settle"),
                database=context.dsn.maintenance_database,
            ) as connection:
                return reconcile_swap(connection, replaced)
        except (AdapterError, psycopg.Error):
            time.sleep(0.25)
    raise NeedsAttention(
        say(
            "The server cannot be asked whether the databases were exchanged. Compare the OID of "
            "%(live)s: %(old_oid)s is the old database, %(new_oid)s the restored one.",
            live=replaced.live_name,
            old_oid=replaced.old_oid,
            new_oid=replaced.new_oid,
        )
    )


def reconcile_swap(connection: psycopg.Connection, replaced: ReplacedDatabase) -> bool:
    """Whether the live name belongs to the new OID; opens it either way. Idempotent."""
    oid = server.database_oid(connection, replaced.live_name)
    swap.set_open(connection, replaced.live_name, is_open=True)
    happened = oid == replaced.new_oid
    if not happened and replaced.undoes:
        swap.set_open(connection, replaced.built_name, is_open=False)
    return happened


def record_exchange(replaced: ReplacedDatabase) -> None:
    """Write down when it happened, and what it took back; either may be written already."""
    with transaction.atomic():
        rows = ReplacedDatabase.objects
        rows.filter(pk=replaced.pk, swapped_at=None).update(swapped_at=Now())
        if replaced.undoes_id is not None:
            rows.filter(pk=replaced.undoes_id, undone_at=None).update(undone_at=Now())
    replaced.refresh_from_db(fields=["swapped_at"])


def drop_replaced_database(replaced: ReplacedDatabase) -> None:
    """See to it that the replaced database is no longer on the server. Idempotent.

    It is dropped only under the name that the swap gave it. Raises AdapterError when the server
    cannot be asked, refuses, or still has it under another name.
    """
    dsn = resolve_dsn(replaced.target)
    with server.connect(
        dsn, application_name="opsconsole:drop", database=dsn.maintenance_database
    ) as connection:
        if server.database_oid(connection, replaced.replaced_name) == replaced.old_oid:
            server.drop_database(connection, replaced.replaced_name)
        left = server.database_name(connection, replaced.old_oid)
    if left is not None:
        raise AdapterError(
            f"{replaced.replaced_name} is called {left} now: rename it back, or drop it by hand"
        )
