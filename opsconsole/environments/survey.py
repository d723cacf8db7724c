"""Everything that decides whether the console can do its work on a target, read on a worker."""

from __future__ import annotations

from dataclasses import replace

import psycopg
from django.conf import settings

from opsconsole.exceptions import AdapterError
from opsconsole.targets import server
from opsconsole.targets.dsn import Dsn
from opsconsole.targets.server import ServerFacts
from opsconsole.targets.tools import ClientTools, choose_tools, find_tools


def survey(
    dsn: Dsn, connection: psycopg.Connection, advisory_lock: int | None = None
) -> ServerFacts:
    """What the connected target says of itself, whether its maintenance database can be used and
    whether this machine has client tools for it. `advisory_lock` as for `read_facts`."""
    facts = server.read_facts(connection, advisory_lock, dsn.schema)
    return replace(
        facts,
        maintenance_database=dsn.maintenance_database,
        maintenance_problem=_why_not_maintained(dsn, connection),
        tools_problem=_why_no_tools(dsn, facts.major),
    )


def tools_for(dsn: Dsn, major: int) -> ClientTools:
    """The installed client tools for a server of that version; raises AdapterError."""
    found = find_tools(settings.PG_TOOLS_FOLDERS)
    return choose_tools(found, server_major=major, is_local=dsn.is_local)


def _why_not_maintained(dsn: Dsn, connection: psycopg.Connection) -> str:
    """Why no session can be had in the maintenance database; "" when one can."""
    name = connection.info.parameter_status("application_name") or server.APPLICATION_PREFIX
    try:
        server.connect(dsn, application_name=name, database=dsn.maintenance_database).close()
    except AdapterError as error:
        return str(error)
    return ""


def _why_no_tools(dsn: Dsn, major: int) -> str:
    """Why a server of that version can be neither dumped nor restored from here; "" when it can."""
    try:
        tools_for(dsn, major)
    except AdapterError as error:
        return str(error)
    return ""
