"""Whether a backup of a database could be restored on its server, by the role that would do it."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg

from opsconsole.exceptions import StepFailed
from opsconsole.runs.step import RunContext
from opsconsole.sentences import Sentence, say
from opsconsole.targets import ddl_log, server
from opsconsole.targets.dsn import Dsn
from opsconsole.targets.ownership import hidden_by_row_security, read_ownership
from opsconsole.targets.trial import Refused, Trial, try_restore


def trial_name(database: str, number: int | str) -> str:
    return server.name_beside(database, f"__trial{number}")


def require_restorable(context: RunContext, *, is_proven_here: bool) -> None:
    """Raise StepFailed, with the remedy, when no backup of the target could be whole, or be
    restored by its role on its server.

    The latter is only told where backups are proven on another server.
    """
    with context.connect("restorable") as connection:
        hidden = hidden_by_row_security(connection)
        if hidden:
            raise StepFailed(
                say(
                    "row security hides rows of %(tables)s from %(user)s, so no backup would be "
                    "whole: have a superuser run ALTER ROLE %(user)s BYPASSRLS",
                    tables=", ".join(hidden[:5]),
                    user=context.dsn.user,
                )
            )
        for problem in _obstacles(context, connection):
            if is_proven_here:
                raise StepFailed(problem)
            context.log(f"preflight: a restore on this server would be refused: {problem}", "hm")


def _obstacles(context: RunContext, connection: psycopg.Connection) -> Iterator[Sentence]:
    rows = connection.execute("SELECT extname FROM pg_extension")
    trial = trial_of(context.dsn, context.run.pk, context.session_name("trial"))
    refused = try_restore(
        trial, [row[0] for row in rows], read_ownership(connection, skipped=[ddl_log.SCHEMA])
    )
    if refused.owners:
        yield cannot_give(refused, connection.info.user)
    if refused.extensions:
        yield cannot_make(refused, connection.info.user)


def trial_of(dsn: Dsn, number: int | str, application_name: str) -> Trial:
    """One in a database beside the target that bears the number."""
    return Trial(dsn, trial_name(dsn.database, number), application_name)


def cannot_give(refused: Refused, user: str) -> Sentence:
    """That some objects cannot be given back to their owner by that role, and the remedy."""
    (schema, owner), reason = next(iter(refused.owners.items()))
    where = schema or say("no schema")
    if owner in refused.superusers:
        return say(
            "what belongs to %(owner)s in %(where)s could not be given back to it in a restored copy "
            "(%(reason)s): ALTER ... OWNER TO %(user)s, or give the console the address of a superuser",
            owner=owner,
            where=where,
            reason=reason,
            user=user,
        )
    return say(
        "what belongs to %(owner)s in %(where)s could not be given back to it in a restored copy "
        "(%(reason)s): ALTER ... OWNER TO %(user)s, or GRANT %(owner)s TO %(user)s and have "
        "%(owner)s own the schema, or give the console the address of a superuser",
        owner=owner,
        where=where,
        reason=reason,
        user=user,
    )


def cannot_make(refused: Refused, user: str) -> Sentence:
    """That some extensions cannot be made by that role, with the server's reason and the remedy."""
    return say(
        "%(user)s may not make %(names)s in a restored copy (%(reason)s): have the server's "
        "administrator mark that extension as trusted (trusted = true in its control file), or give "
        "the console the address of a role that may",
        user=user,
        names=", ".join(sorted(refused.extensions)),
        reason=next(iter(refused.extensions.values())),
    )
