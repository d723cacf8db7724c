"""What stands in the way of a restore, and what it would leave behind. Reads only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TypedDict

import psycopg

from backups_app.models import Backup, RestoreCheck
from backups_app.runs.restorable import cannot_give, cannot_make, trial_of
from backups_app.runs.swapping import sessions_not_ours_to_end
from opsconsole.environments.obstacles import Need, obstacles
from opsconsole.environments.readings import ServerRead
from opsconsole.environments.secrets import resolve_dsn
from opsconsole.environments.survey import survey, tools_for
from opsconsole.exceptions import AdapterError
from opsconsole.formats import size
from opsconsole.targets import activity, server
from opsconsole.targets.belongings import certain_to_stay, read_belongings
from opsconsole.targets.dsn import Dsn
from opsconsole.targets.extensions import PG_CRON
from opsconsole.targets.ownership import out_of_reach
from opsconsole.targets.server import ServerFacts
from opsconsole.targets.trial import Refused, Trial, try_restore


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. Only a blocking one stops a restore."""

    what: str
    text: str
    is_ok: bool = True


def check_restore(check: RestoreCheck) -> None:
    """On a worker: look at the target and keep what was found, or why it could not be looked at."""
    target = check.target
    try:
        dsn = resolve_dsn(target)
        with server.connect(
            dsn, application_name="opsconsole:check", timeout_seconds=20
        ) as session:
            findings = find(
                session,
                check.backup,
                trial_of(dsn, f"_look{check.pk}", "opsconsole:check"),
                keeps_owners=check.backup.keeps_owners_in(target.pk),
            )
            is_same = check.backup.target_id == target.pk
            facts = server.read_facts(session)
            behind = certain_to_stay(
                read_belongings(session, facts.database), is_superuser=facts.is_superuser
            )
            check.data = {
                "findings": [asdict(finding) for finding in findings],
                "left_behind": {each.what: str(each) for each in behind},
                "losses": losses(session, check.backup) if is_same else None,
            }
    except (AdapterError, psycopg.Error) as error:
        check.error = str(error) or type(error).__name__
    check.is_done = True
    check.save(update_fields=["data", "error", "is_done"])


def find(
    connection: psycopg.Connection,
    backup: Backup,
    trial: Trial,
    *,
    keeps_owners: bool,
    exchanges: bool = True,
) -> list[Finding]:
    """Everything that is looked at before a restore into the database connected to, at `dsn`.

    With `exchanges` off (a new database beside it), what only an exchange needs is left out.
    `keeps_owners` tells whether the archive's owners must exist; `trial` is where it is tried what
    only the server knows.
    """
    facts = survey(trial.dsn, connection)
    refused = _tried(trial, facts, backup, keeps_owners=keeps_owners)
    findings = [
        _version(facts, backup, trial.dsn),
        *_proof(trial, backup),
        *_obstacles(facts, exchanges=exchanges),
        _extensions(connection, backup, refused),
        _owners(connection, backup, refused, keeps_owners=keeps_owners),
        *_cron(backup),
        *_event_triggers(facts, backup),
        _space(backup, facts),
    ]
    if exchanges:
        findings += [_prepared(connection), _slots(connection), _sessions(connection, facts)]
    return findings


def _version(facts: ServerFacts, backup: Backup, dsn: Dsn) -> Finding:
    archived_by = int(str(backup.manifest["client"]).split(".")[0])
    said = f"PostgreSQL {facts.version}; the archive is pg_dump {backup.manifest['client']}'s"
    if facts.major < archived_by:
        return Finding(
            "versions",
            f"{said}: a server needs an archive of its own version or older",
            is_ok=False,
        )
    try:
        tools = tools_for(dsn, facts.major)
    except AdapterError as error:
        return Finding("versions", str(error), is_ok=False)
    return Finding("versions", f"{said}, pg_restore {tools.version} is here")


def _proof(trial: Trial, backup: Backup) -> list[Finding]:
    if not backup.proven_on:
        return []
    if backup.proven_on == trial.dsn.role_shown():
        return [Finding("proof", "restored on this server by this role")]
    return [
        Finding(
            "proof",
            f"restored by {backup.proven_on}, which says nothing of this server and this role: what "
            "follows was looked at here",
        )
    ]


def _obstacles(facts: ServerFacts, *, exchanges: bool) -> list[Finding]:
    """What is in the way on any such server; of its tools the versions tell."""
    needs = {Need.BUILD, Need.EXCHANGE} if exchanges else {Need.BUILD}
    found = [
        Finding(each.about, str(each.sentence), is_ok=not each.stops & needs)
        for each in obstacles(ServerRead.model_validate(facts.as_dict()))
        if each.about != "tools"
    ]
    if any(finding.what == "rights" for finding in found):
        return found
    return [
        Finding("rights", f"{facts.user} may create databases and exchange this one"),
        *found,
    ]


def _tried(trial: Trial, facts: ServerFacts, backup: Backup, *, keeps_owners: bool) -> Refused:
    if not facts.may_create_databases:
        return Refused()
    extensions = backup.extensions
    return try_restore(trial, extensions, backup.owned if keeps_owners else None)


def _extensions(connection: psycopg.Connection, backup: Backup, refused: Refused) -> Finding:
    wanted = backup.extensions
    there = {
        row[0] for row in connection.execute("SELECT name FROM pg_available_extensions").fetchall()
    }
    missing = sorted(set(wanted) - there)
    if missing:
        return Finding(
            "extensions", f"not installed on this server: {', '.join(missing)}", is_ok=False
        )
    if refused.extensions:
        return Finding("extensions", str(cannot_make(refused, connection.info.user)), is_ok=False)
    return Finding("extensions", f"{', '.join(sorted(wanted)) or 'none'}: all can be made here")


def _owners(
    connection: psycopg.Connection, backup: Backup, refused: Refused, *, keeps_owners: bool
) -> Finding:
    if not keeps_owners:
        return Finding("roles", "everything will belong to the role of this environment")
    owned = backup.owned
    wanted = owned.roles if owned else backup.manifest.get("owners", [])
    there = {row[0] for row in connection.execute("SELECT rolname FROM pg_roles").fetchall()}
    missing = sorted(set(wanted) - there)
    if missing:
        return Finding(
            "roles",
            f"owners that this server lacks: {', '.join(missing)}; the archive's .globals.sql "
            "makes them",
            is_ok=False,
        )
    if owned is None:
        return Finding("roles", "every owner exists here")
    if refused.owners:
        return Finding("roles", str(cannot_give(refused, connection.info.user)), is_ok=False)
    others = owned.schemas_of(out_of_reach(connection, set(owned.schemas.values())))
    if others:
        named = ", ".join(f"{schema} (of {owner})" for schema, owner in sorted(others.items()))
        return Finding(
            "roles",
            f"{connection.info.user} is given what it can give to every owner; these schemas will "
            f"be its own afterwards: {named}",
        )
    return Finding("roles", "every owner exists here, and can be given what it owned")


def _cron(backup: Backup) -> list[Finding]:
    if PG_CRON not in backup.extensions:
        return []
    return [
        Finding(
            "pg_cron",
            "will be missing afterwards, with its jobs: it can be in one database of a server only, "
            "by name. Once the exchange is done, have a superuser run CREATE EXTENSION pg_cron and "
            "schedule them again; the archive holds them (TABLE DATA cron job)",
        )
    ]


def _event_triggers(facts: ServerFacts, backup: Backup) -> list[Finding]:
    if lost := backup.event_triggers_lost(facts):
        return [
            Finding(
                "event triggers",
                f"{', '.join(each.name for each in lost)}, with their functions, will be missing "
                f"afterwards: only a superuser makes them, and {facts.user} is none. Have one make "
                "them again",
            )
        ]
    return []


def _space(backup: Backup, facts: ServerFacts) -> Finding:
    needed = int(backup.manifest["server"].get("size_bytes", backup.raw_bytes))
    return Finding(
        "space",
        f"about {size(needed)} more on the server while both databases are there "
        f"(the live one has {size(facts.size_bytes)})",
    )


def _prepared(connection: psycopg.Connection) -> Finding:
    row = connection.execute(
        "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()"
    ).fetchone()
    if row and row[0]:
        return Finding(
            "prepared transactions",
            f"{row[0]} prepared transactions block the exchange: COMMIT PREPARED or "
            "ROLLBACK PREPARED them first (pg_prepared_xacts lists them)",
            is_ok=False,
        )
    return Finding("prepared transactions", "none")


def _slots(connection: psycopg.Connection) -> Finding:
    rows = connection.execute(
        "SELECT slot_name FROM pg_replication_slots WHERE database = current_database()"
    ).fetchall()
    if rows:
        return Finding(
            "replication slots",
            f"the logical replication slot {rows[0][0]} would stay with the replaced database: "
            "drop it first",
            is_ok=False,
        )
    return Finding("replication slots", "none")


def _sessions(connection: psycopg.Connection, facts: ServerFacts) -> Finding:
    foreign = sessions_not_ours_to_end(connection, facts.database)
    if foreign:
        return Finding(
            "sessions",
            f"sessions of a role this one may not end are in the way: {', '.join(foreign)}",
            is_ok=False,
        )
    return Finding("sessions", "all can be ended by this role")


class Loss(TypedDict):
    table: str
    rows: int | None
    written: int


def losses(connection: psycopg.Connection, backup: Backup) -> list[Loss] | None:
    """Per table: rows in the backup, and rows written since it as an upper bound.

    None where it cannot be known: another database bears the name now, or its statistics
    began anew.
    """
    before = backup.manifest.get("rows_written_by_table")
    oid = server.database_oid(connection, connection.info.dbname)
    if before is None or oid != backup.manifest.get("database_oid"):
        return None
    now = activity.rows_written_by_table(connection)
    if any(now.get(name, 0) < count for name, count in before.items() if name in now):
        return None
    tables = backup.tables
    return [
        {
            "table": name,
            "rows": tables.get(name, {}).get("rows"),
            "written": count - before.get(name, 0),
        }
        for name, count in sorted(now.items(), key=lambda item: before.get(item[0], 0) - item[1])
        if count > before.get(name, 0)
    ]
