"""Where a request came from: what a proxy says of that counts only when the proxy is named."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from ipaddress import ip_address

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from opsconsole.outgoing import IPAddress, IPNetwork

FORWARDED_FOR = "HTTP_X_FORWARDED_FOR"
FORWARDED_PROTO = "HTTP_X_FORWARDED_PROTO"
# Everything in which a proxy tells of the request that it got. Anybody can send them too.
TOLD_BY_PROXIES = (
    FORWARDED_FOR,
    FORWARDED_PROTO,
    "HTTP_FORWARDED",
    "HTTP_X_FORWARDED_HOST",
    "HTTP_X_FORWARDED_PORT",
    "HTTP_X_REAL_IP",
)
BRACKETS_OR_PORT = re.compile(r"\[(.*)\](?::\d+)?|([\d.]+):\d+")


class TrustedProxiesMiddleware:
    """Leaves in a request only what can be believed; has to be the first of all.

    REMOTE_ADDR becomes the person's address. X-Forwarded-Proto is there only from a named proxy;
    the host is the one that was asked for (Host), and what else proxies tell is left out.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        meta, named = request.META, settings.TRUSTED_PROXIES
        told = {name: meta.pop(name, "") for name in TOLD_BY_PROXIES}
        peer = address_of(meta.get("REMOTE_ADDR", ""))
        if _is_among(peer, named) and told[FORWARDED_PROTO]:
            meta[FORWARDED_PROTO] = protocol_of(told[FORWARDED_PROTO])
        meta["REMOTE_ADDR"] = str(client_of(peer, told[FORWARDED_FOR], named) or "")
        return self.get_response(request)


def address_of(text: str) -> IPAddress | None:
    """The IP address that a hop is written as, with a port or without; None if it is none."""
    bare = BRACKETS_OR_PORT.sub(r"\1\2", text.strip()).partition("%")[0]
    try:
        address = ip_address(bare)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def client_of(
    peer: IPAddress | None, forwarded_for: str, named: Sequence[IPNetwork]
) -> IPAddress | None:
    """Who asked: from the peer back through X-Forwarded-For, the first who is no named proxy.

    What stands before that hop was written by somebody unknown. A hop that is no address ends the
    way: then the proxy that wrote it is all that is known.
    """
    client = peer
    for hop in reversed(forwarded_for.split(",")):
        before = address_of(hop) if _is_among(client, named) else None
        if before is None:
            break
        client = before
    return client


def protocol_of(forwarded_proto: str) -> str:
    """`https` if every hop says so, else `http`."""
    return "https" if set(forwarded_proto.replace(" ", "").split(",")) == {"https"} else "http"


def _is_among(address: IPAddress | None, networks: Sequence[IPNetwork]) -> bool:
    return address is not None and any(address in network for network in networks)
