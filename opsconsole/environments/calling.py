"""What the console may call, with its own servers left out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from urllib.parse import urlsplit

from django.conf import settings
from django.db import connection

from opsconsole.exceptions import AdapterError
from opsconsole.outgoing import CallPolicy, Deadline, IPAddress, look_up

KNOWN_FOR_SECONDS = 60
RESOLVE_SECONDS = 5


def call_policy() -> CallPolicy:
    """The policy of the settings, and that nothing is asked of the console's database or broker.

    Not for addresses of databases: a target may be on the server of the console's own.
    """
    return replace(settings.CALL_POLICY, own=_own_sockets(time.monotonic() // KNOWN_FOR_SECONDS))


@lru_cache(maxsize=1)
def _own_sockets(_period: float) -> frozenset[tuple[IPAddress, int]]:
    """Addresses and ports as they resolve in this period; Unix sockets take no such call."""
    found: set[tuple[IPAddress, int]] = set()
    for host, port in _own_hosts():
        with suppress(AdapterError):
            addresses = look_up(host, port, Deadline(RESOLVE_SECONDS))
            found.update((address, port) for address in addresses)
    return frozenset(found)


def _own_hosts() -> Iterator[tuple[str, int]]:
    database, broker = connection.settings_dict, urlsplit(settings.REDIS_URL)
    if database["HOST"] and not database["HOST"].startswith("/"):
        yield database["HOST"], int(database["PORT"] or 5432)
    if broker.scheme in {"redis", "rediss"} and broker.hostname:
        yield broker.hostname, broker.port or 6379
