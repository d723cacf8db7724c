"""Exchange a built database with the live one, and know afterwards which is which."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg
from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now

from backups_app.models import Backup, ReplacedDatabase
from backups_app.runs import building
from backups_app.runs.restorable import trial_of
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
from opsconsole.targets.belongings import (
    Belongings,
    Difference,
    carry_over,
    certain_to_stay,
    differences,
    read_belongings,
    to_try,
)
from opsconsole.targets.trial import empty_database

MEANT = {
    "missing": "is not in what is brought back",
    "other": "is another in what is brought back",
    "unexpected": "comes back",
}


@dataclass(frozen=True)
class Accepted:
    """How far what belongs to a replacement may differ from what belongs to the live database.

    `consents` name what may stay behind; `recorded` is what the restored backup held of it, where
    a run goes back to it; without `keeps_owners` everything has one owner.
    """

    consents: tuple[str, ...] = ()
    recorded: dict[str, str] | None = None
    keeps_owners: bool = True

    @classmethod
    def of(cls, context: RunContext, backup: Backup, *, is_way_back: bool) -> Accepted:
        """For a restore of the backup. A way back undoes whatever has changed since it."""
        return cls(
            recorded=backup.belongings if is_way_back else None,
            keeps_owners=backup.keeps_owners_in(context.run.target_id),
        )

    def allows(self, behind: Iterable[Difference]) -> bool:
        return all(each.what in self.consents for each in behind)

    def differences(self, live: Belongings, built: Belongings) -> list[Difference]:
        return differences(live, built, recorded=self.recorded, keeps_owners=self.keeps_owners)


class LeftBehind(StepFailed):
    """An exchange would leave something behind that nobody has consented to; nothing was changed."""


def known_to_stay(context: RunContext) -> list[Difference]:
    """What is certain to stay behind in an exchange, before anything is built.

    What takes a right is tried in an empty database.
    """
    trial = trial_of(context.dsn, context.run.pk, context.session_name("trial"))
    with context.connect("belongings") as connection:
        live = read_belongings(connection, trial.database)
        facts = server.read_facts(connection)
    certain = certain_to_stay(live, is_superuser=facts.is_superuser)
    tried = to_try(live)
    if not tried:
        return certain
    with empty_database(trial) as empty:
        return certain + carry_over(empty, tried)


def hand_over(
    context: RunContext[Parameters, WithReplaced], built: str, accepted: Accepted
) -> None:
    """Make what belongs to `built` equal to what belongs to the live database.

    Raises LeftBehind for what cannot be, unless it was consented to; then `built` is as it was.
    """
    with context.connect("belongings") as connection:
        live = read_belongings(connection, built)
    with context.connect("prepare", database=built) as connection:
        # A setting of the database may say otherwise.
        connection.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE")
        with connection.transaction() as whole:
            found = accepted.differences(live, read_belongings(connection, built))
            refused = {each.what: each for each in carry_over(connection, found)}
            left = [
                refused.get(each.what, each)
                for each in accepted.differences(live, read_belongings(connection, built))
            ]
            behind = [each for each in left if not each.is_meant]
            if not accepted.allows(behind):
                raise psycopg.Rollback(whole)
    require_consent(context, behind, accepted.consents)
    still = {each.what for each in left}
    if carried := [each.what for each in found if each.what not in still]:
        context.log(f"swap: carried over: {', '.join(carried)}")
    for each in left:
        if each.is_meant:
            context.log(f"swap: {each.what} {MEANT[each.how]}", "hm")


def require_consent(
    context: RunContext[Parameters, WithReplaced],
    behind: Sequence[Difference],
    consents: Collection[str],
) -> None:
    """Log and keep what stays behind; raise LeftBehind unless all of it was consented to."""
    if behind:
        names = {*context.result.left_behind, *(each.what for each in behind)}
        context.result.left_behind = sorted(names)
    for each in behind:
        context.log(f"swap: {each}", "hm" if each.what in consents else "no")
    missing = [str(each) for each in behind if each.what not in consents]
    if missing:
        raise LeftBehind(
            say(
                "the exchange would not keep everything that belongs to the database: %(what)s. Put "
                "it right, or consent to it and ask again",
                what="; ".join(missing),
            )
        )


def build_replacement(context: RunContext, backup: Backup) -> str:
    """Restore beside the live database and compare with the manifest; returns the built one's name.

    The live database is not touched. Raises StepFailed when a single row differs.
    """
    name = building.built_name(context.dsn.database, context.run.pk)
    context.log(f"restore: building {name} beside the live database")
    building.build_copy(context, backup, name)
    with context.connect("analyze", database=name) as connection:
        connection.execute("ANALYZE")
    context.log(f"restore: {counted(backup.rows, 'row')}, content equal", "ok")
    return name


def swap_in(
    context: RunContext[Parameters, WithReplaced],
    built: str,
    accepted: Accepted,
    undoes: ReplacedDatabase | None = None,
) -> ReplacedDatabase:
    """Exchange the built database with the live one; both OIDs are kept first.

    What belongs to the live database is carried over before, as far as `accepted` says. `undoes`
    is the swap that is taken back, when `built` is what it replaced.

    The child that does it completes or reopens by itself. Whatever it says, the server's
    catalogue decides: raises StepFailed when the live database stayed, NeedsAttention when
    the server cannot be asked.
    """
    replaced = _record_intent(context, built, undoes)
    with _opened(context, built) if undoes else nullcontext():
        hand_over(context, built, accepted)
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


@contextmanager
def _opened(context: RunContext, name: str) -> Iterator[None]:
    """A replaced database is closed; it has to be open when it takes the live name. It is closed
    again when the block fails."""
    with context.connect("swap:before", database=context.dsn.maintenance_database) as connection:
        swap.set_open(connection, name, is_open=True)
    try:
        yield
    except BaseException:
        _close_again(context, name)
        raise


def _close_again(context: RunContext, name: str) -> None:
    """On a session that a stop does not touch. One that cannot be closed is told, and stays open."""
    try:
        with server.connect(
            context.dsn,
            application_name=context.session_name("swap:after"),
            database=context.dsn.maintenance_database,
        ) as connection:
            swap.set_open(connection, name, is_open=False)
    except (AdapterError, psycopg.Error) as error:
        context.log(f"swap: {name} could not be closed again: {error}", "hm")


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
