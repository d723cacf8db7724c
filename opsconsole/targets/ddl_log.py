"""The log of schema changes that an event trigger keeps in a target, where an admin installs it.

Only a superuser makes event triggers, so the log belongs to one: the console's role reads it and
can neither forge nor remove it. Nothing of it is part of what the application stores: backups,
counts of rows and the canonical schema leave it out.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

SCHEMA = "opsconsole_log"
TRIGGERS = ("opsconsole_log_changed", "opsconsole_log_dropped")
LATEST = 200
READABLE = """
    SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, pg_event_trigger e
     WHERE n.nspname = 'opsconsole_log' AND c.relname = 'changes'
       AND e.evtname = %s AND e.evtenabled <> 'D'
       AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
"""

# The functions run as their owner, with a search path that nobody else can write to; whatever
# goes wrong in them is swallowed, because a log must never refuse a change.
INSTALL = """\
-- The log of schema changes, for Ops Console. Run it in the database that is watched, as a
-- superuser (on a managed server: as its admin role). Once more does no harm.
-- To remove it: DROP SCHEMA opsconsole_log CASCADE;
BEGIN;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_namespace WHERE nspname = 'opsconsole_log'
                  AND pg_get_userbyid(nspowner) <> current_user) THEN
        RAISE 'the schema opsconsole_log belongs to another role: drop it, or run this as that role';
    END IF;
END
$$;

CREATE SCHEMA IF NOT EXISTS opsconsole_log;

CREATE TABLE IF NOT EXISTS opsconsole_log.changes (
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    role text NOT NULL,
    client text NOT NULL,
    application text NOT NULL,
    command text NOT NULL,
    object text NOT NULL
);
CREATE INDEX IF NOT EXISTS changes_at ON opsconsole_log.changes (at);

CREATE OR REPLACE FUNCTION opsconsole_log.note(command text, object text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO opsconsole_log.changes (role, client, application, command, object)
    VALUES (session_user, coalesce(host(inet_client_addr()), 'local'),
            current_setting('application_name'), command, object);
$$;

CREATE OR REPLACE FUNCTION opsconsole_log.changed() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms' AS $$
BEGIN
    IF tg_tag IN ('GRANT', 'REVOKE', 'COMMENT', 'REFRESH MATERIALIZED VIEW') THEN
        RETURN;
    END IF;
    PERFORM opsconsole_log.note(command_tag, object_identity)
       FROM pg_event_trigger_ddl_commands()
      WHERE NOT in_extension AND coalesce(schema_name, '') NOT IN ('pg_temp', 'opsconsole_log');
EXCEPTION WHEN OTHERS THEN
    RETURN;
END
$$;

CREATE OR REPLACE FUNCTION opsconsole_log.dropped() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms' AS $$
BEGIN
    PERFORM opsconsole_log.note(tg_tag, object_identity)
       FROM pg_event_trigger_dropped_objects()
      WHERE (original OR normal) AND NOT is_temporary AND object_type <> 'default value';
EXCEPTION WHEN OTHERS THEN
    RETURN;
END
$$;

REVOKE ALL ON SCHEMA opsconsole_log FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA opsconsole_log FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA opsconsole_log FROM PUBLIC;
GRANT USAGE ON SCHEMA opsconsole_log TO {role};
GRANT SELECT ON opsconsole_log.changes TO {role};

DROP EVENT TRIGGER IF EXISTS opsconsole_log_changed;
CREATE EVENT TRIGGER opsconsole_log_changed ON ddl_command_end
    EXECUTE FUNCTION opsconsole_log.changed();
DROP EVENT TRIGGER IF EXISTS opsconsole_log_dropped;
CREATE EVENT TRIGGER opsconsole_log_dropped ON sql_drop
    EXECUTE FUNCTION opsconsole_log.dropped();

COMMIT;
"""


def install_sql(role: str) -> str:
    """The script that installs the log, for the role that the console signs in with."""
    return INSTALL.replace("{role}", sql.Identifier(role).as_string(None))


def read_changes(connection: psycopg.Connection, seconds: float) -> list[dict[str, Any]] | None:
    """What the log holds of the last `seconds`, by the server's own clock, the newest first.

    At most LATEST of them: `at` (ISO 8601), `role`, `client` (address, or "local"),
    `application`, `command`, `object`. The console's own sessions are left out. None where there
    is no log, or none that this role may read.
    """
    if not connection.execute(READABLE, [TRIGGERS[0]]).fetchone():
        return None
    found = connection.execute(
        "SELECT at, role, client, application, command, object FROM opsconsole_log.changes"
        " WHERE at > clock_timestamp() - make_interval(secs => %s)"
        "   AND application NOT LIKE 'opsconsole:%%'"
        " ORDER BY at DESC LIMIT %s",
        [seconds, LATEST],
    ).fetchall()
    return [
        {
            "at": at.isoformat(),
            "role": role,
            "client": client,
            "application": application,
            "command": command,
            "object": name,
        }
        for at, role, client, application, command, name in found
    ]
