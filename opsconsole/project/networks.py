"""Settings that name networks."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

import environ
from django.core.exceptions import ImproperlyConfigured

from opsconsole.outgoing import IPNetwork, networks


def networks_named(setting: str, default: Sequence[str] = ()) -> tuple[IPNetwork, ...]:
    """The networks of a variable, separated by commas; one address is one too.

    Raises ImproperlyConfigured that names the variable and what is wrong in it.
    """
    try:
        return networks(environ.Env().list(setting, default=list(default)))
    except ValueError as error:
        raise ImproperlyConfigured(f"{setting}: {error}") from None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
