"""How often passwords may be guessed.

Every guess is counted before the password is looked at, and given back when it was right. Counted
are those of the last hour: for one name, from one address, and from anywhere. None of these stops
somebody on a device on which they have signed in before: there only their own guesses count, so
that nobody can lock anybody out of it. Names that nobody bears are counted like others, so that
the limit tells nothing about them.

OWASP ASVS 5.0, 6.1.1 and 6.3.1: guessing is stopped, and not by locking the account.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import connection, transaction
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from opsconsole.access import events
from opsconsole.access.choices import Guesser
from opsconsole.access.models import RecentGuesses
from opsconsole.access.names import folded
from opsconsole.events import recording as audit
from opsconsole.events.models import AuditEvent
from opsconsole.exceptions import Kind, Refused

MOST = {Guesser.NAME: 10, Guesser.ADDRESS: 50, Guesser.ANYBODY: 500, Guesser.DEVICE: 10}
RECENT = "ARRAY(SELECT t FROM unnest(g.at) t WHERE t > clock_timestamp() - interval '1 hour')"
TAKE = """
INSERT INTO {table} AS g (guesser, key, at) VALUES (%s, %s, ARRAY[clock_timestamp()])
ON CONFLICT (guesser, key) DO UPDATE SET at = {recent} || clock_timestamp()
WHERE cardinality({recent}) < %s
RETURNING at[cardinality(at)]
"""
GIVE_BACK = "UPDATE {table} SET at = array_remove(at, %s) WHERE guesser = %s AND key = %s"
WAIT = """
SELECT extract(epoch FROM ({recent})[1] + interval '1 hour' - clock_timestamp()) FROM {table} g
WHERE guesser = %s AND key = %s
"""
TELL = """
UPDATE {table} SET told_at = clock_timestamp() WHERE guesser = %s AND key = %s
AND coalesce(told_at < clock_timestamp() - interval '1 hour', true)
RETURNING 1
"""
FORGET = """
DELETE FROM {table} WHERE coalesce(at[cardinality(at)] < clock_timestamp() - interval '1 hour', true)
"""


@dataclass(frozen=True)
class Counted:
    """What one guess is counted under."""

    guesser: Guesser
    key: str

    @property
    def row(self) -> list[str]:
        return [self.guesser.value, self.key]


@dataclass(frozen=True)
class Guess:
    """One that was let through: where it was counted, and when."""

    taken: tuple[tuple[Counted, datetime], ...]


class _Full(Exception):
    def __init__(self, counted: Counted) -> None:
        super().__init__(counted)
        self.counted = counted


def take_guess(*, name: str, address: str, device: str = "") -> Guess:
    """Count a guess of the password of `name`, which may be nobody's, from a network address.

    `device` is the one that they are known on, "" for none. Raises Refused (too many) when that
    was one too many; it is then not counted, and the audit trail is told once an hour.
    """
    try:
        with transaction.atomic():
            return Guess(tuple((one, _take(one)) for one in _counted(name, address, device)))
    except _Full as full:
        _tell(full.counted, name)
        raise Refused(_why(full.counted), kind=Kind.TOO_MANY) from None


def give_back(guess: Guess) -> None:
    """Forget a guess that was right."""
    for counted, at in guess.taken:
        _execute(GIVE_BACK, [at, *counted.row])


def forget_old_guesses() -> None:
    """Delete what counts nothing any more."""
    _execute(FORGET, [])


def _counted(name: str, address: str, device: str) -> list[Counted]:
    """Always in this order: two that are taken at the same time wait for each other in it."""
    if device:
        return [Counted(Guesser.DEVICE, _digest(device))]
    return [
        Counted(Guesser.NAME, _digest(folded(name))),
        Counted(Guesser.ADDRESS, _digest(address)),
        Counted(Guesser.ANYBODY, ""),
    ]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


def _take(counted: Counted) -> datetime:
    found = _execute(TAKE, [*counted.row, MOST[counted.guesser]])
    if found is None:
        raise _Full(counted)
    at: datetime = found[0]
    return at


def _tell(counted: Counted, name: str) -> None:
    with transaction.atomic():
        if _execute(TELL, counted.row):
            audit.record(
                events.GUESSING_STOPPED,
                actor=None,
                outcome=AuditEvent.Outcome.DENIED,
                data=events.GuessingStopped(
                    guesser=counted.guesser, username=name[:150], guesses=MOST[counted.guesser]
                ),
            )


def _minutes_left(counted: Counted) -> int:
    found = _execute(WAIT, counted.row)
    return max(1, math.ceil(float(found[0] or 0) / 60)) if found else 1


def _why(counted: Counted) -> str:
    minutes = _minutes_left(counted)
    wait = ngettext("Wait %(n)d minute", "Wait %(n)d minutes", minutes) % {"n": minutes}
    if counted.guesser is Guesser.DEVICE:
        says = _("Too many wrong passwords. %(wait)s, or ask an admin for a link to set a new one.")
    else:
        says = _(
            "Too many wrong passwords. %(wait)s, sign in on a device that you have used before, or "
            "ask an admin for a link to set a new one."
        )
    return says % {"wait": wait}


def _execute(sql: str, parameters: Sequence[str | int | datetime]) -> tuple | None:
    """The first row, if the statement returns any."""
    table = connection.ops.quote_name(RecentGuesses._meta.db_table)
    with connection.cursor() as cursor:
        cursor.execute(sql.format(table=table, recent=RECENT), parameters)
        return cursor.fetchone() if cursor.description else None
