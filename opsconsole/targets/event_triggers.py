"""Event triggers: only a superuser makes them, so most roles can dump but not restore them."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

FOUND = """
    SELECT e.evtname, n.nspname, p.proname
      FROM pg_event_trigger e JOIN pg_proc p ON p.oid = e.evtfoid
      JOIN pg_namespace n ON n.oid = p.pronamespace
     WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_event_trigger'::regclass
                          AND d.objid = e.oid AND d.deptype = 'e')
     ORDER BY 1
"""


@dataclass(frozen=True)
class EventTrigger:
    """One of a database; the function it calls, which never has arguments, by schema and name."""

    name: str
    schema: str
    function: str


def read_event_triggers(connection: psycopg.Connection) -> list[EventTrigger]:
    """Those of the connected database, by name, but not what an extension made."""
    return [EventTrigger(*row) for row in connection.execute(FOUND).fetchall()]
