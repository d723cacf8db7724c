"""Where the console may call, and for how long: every call to an address that people typed.

A name is resolved once, what it resolved to is judged, and that very address is connected to: a
name that means another address a moment later (DNS rebinding) leads nowhere else.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from opsconsole.exceptions import AdapterError

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

# No service of a team answers there, but the metadata of a cloud's machines with its keys does:
# link-local addresses, and those that Amazon (IPv6), Alibaba and Oracle use. And addresses that
# mean nobody (IANA's special-purpose registries): "this host", multicast, reserved ones.
DENIED = (
    "169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128", "100.100.100.200/32", "192.0.0.192/32",
    "0.0.0.0/8", "::/128", "224.0.0.0/4", "ff00::/8", "240.0.0.0/4",
)  # fmt: skip
NAT64 = IPv6Network("64:ff9b::/96")


class NotAllowed(AdapterError):
    """The console does not call that address."""


class TooSlow(AdapterError):
    """The time that the whole call has is over."""


class Deadline:
    """The end of the time that a whole call has, however many waits it is made of."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._ends_at = time.monotonic() + seconds

    def left(self, at_most: float | None = None) -> float:
        """Seconds that are left. Raises TooSlow when there are none."""
        left = self._ends_at - time.monotonic()
        if left <= 0:
            raise TooSlow("timed out")
        return left if at_most is None else min(left, at_most)


@dataclass(frozen=True)
class CallPolicy:
    """Networks that may be called. One that is allowed may be, even if it lies in a denied one.

    `own` are the sockets (address, port) of the console's own database and broker.
    """

    allowed: tuple[IPNetwork, ...] = ()
    denied: tuple[IPNetwork, ...] = tuple(ipaddress.ip_network(each) for each in DENIED)
    own: frozenset[tuple[IPAddress, int]] = frozenset()

    def check(self, address: IPAddress, port: int) -> None:
        """Raise NotAllowed unless the console may connect there."""
        meant = _meant(address)
        if any(port == number and _is_same_host(meant, own) for own, number in self.own):
            raise NotAllowed(f"{meant}:{port} is the console's own database or broker")
        if any(meant in network for network in self.allowed):
            return
        if any(meant in network for network in self.denied):
            raise NotAllowed(
                f"the console does not call {meant}: OPSCONSOLE_CALLS_DENIED, or its default, "
                "holds that network"
            )


def networks(texts: Iterable[str]) -> tuple[IPNetwork, ...]:
    """Parse `10.0.0.0/8`, `fe80::/10`, `192.0.2.1`. Raises ValueError that names a wrong one."""
    return tuple(ipaddress.ip_network(text.strip()) for text in texts)


def resolve(host: str, port: int, *, policy: CallPolicy, deadline: Deadline) -> list[IPAddress]:
    """The addresses of a host, in the resolver's order, all of them allowed.

    Raises NotAllowed if one of them is not, TooSlow, AdapterError for a host that is unknown.
    """
    found = look_up(host, port, deadline)
    for address in found:
        policy.check(address, port)
    return found


def answers(address: str, port: int, deadline: Deadline) -> bool:
    """Whether something takes a connection there, within 3 s at most."""
    try:
        with socket.create_connection((address, port), deadline.left(at_most=3)):
            return True
    except OSError:
        return False


def look_up(host: str, port: int, deadline: Deadline) -> list[IPAddress]:
    """Ask the resolver, which knows no deadline, in a thread that is left behind when it is over."""
    answers: list[list[IPAddress]] = []
    errors: list[Exception] = []

    def ask() -> None:
        try:
            rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.append([ipaddress.ip_address(str(row[4][0])) for row in rows])
        except (OSError, ValueError) as error:  # UnicodeError for a name that is no name
            errors.append(error)

    thread = threading.Thread(target=ask, name="resolve", daemon=True)
    thread.start()
    thread.join(deadline.left())
    if errors:
        why = getattr(errors[0], "strerror", "") or "it is no name of a host"
        raise AdapterError(f"{host[:100]} cannot be resolved: {why}")
    if not answers:
        raise TooSlow(f"{host[:100]} was not resolved within {deadline.seconds:g} s")
    return answers[0]


def _meant(address: IPAddress) -> IPAddress:
    """The IPv4 address inside an IPv6 one that stands for it; otherwise the address."""
    if isinstance(address, IPv4Address):
        return address
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _is_same_host(one: IPAddress, other: IPAddress) -> bool:
    return one == other or (_is_here(one) and _is_here(other))


def _is_here(address: IPAddress) -> bool:
    """Whether it is one of this machine's: only such an address can be bound to."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True
