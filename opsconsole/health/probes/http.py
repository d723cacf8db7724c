"""Ask an http(s) address that answers JSON with a `status`."""

from __future__ import annotations

import json
import ssl
import time
from base64 import b64encode
from collections.abc import Iterable
from functools import cache
from math import isfinite
from typing import Any
from urllib.parse import quote, unquote, urljoin

import certifi
import httpcore

from opsconsole.exceptions import AdapterError
from opsconsole.formats import count, one_line
from opsconsole.health.probes.kinds import SUMMARY_CHARACTERS, ProbeAnswer, ProbeRequest
from opsconsole.outgoing import CallPolicy, Deadline, resolve
from opsconsole.url import split_url

GOOD_WORDS = {"healthy", "ok", "up", "pass"}
MAX_BYTES = 64 * 1024
MAX_REDIRECTS = 3
REDIRECTS = {301, 302, 303, 307, 308}
# Of the answer that is kept: entries of one list or object, levels, characters of one text, of a
# name, digits of a number that counts something.
MOST_ENTRIES = 100
MOST_DEPTH = 8
MOST_CHARACTERS = 300
MOST_OF_NAME = 40
MOST_DIGITS = 18
# What may stand in an address; all else is escaped.
URL_SAFE = "%/:?#[]@!$&'()*+,;=~"


def probe_http(request: ProbeRequest) -> ProbeAnswer:
    """Healthy: a 2xx answer whose JSON `status`, if it has one, is a good word.

    Reads at most 64 KiB, follows at most 3 redirects, to http and https only, and takes no longer
    than the request's timeout altogether. Every address on the way has to be one that the policy
    lets the console call.
    """
    began = time.perf_counter()
    try:
        status, body = _get(request)
    except AdapterError as error:
        return ProbeAnswer(False, _ms(began), one_line(f"no answer: {error}", SUMMARY_CHARACTERS))
    answer = _parse(body)
    word = one_line(str(answer.get("status", "")), MOST_OF_NAME).lower()
    is_healthy = 200 <= status < 300 and (not word or word in GOOD_WORDS)
    return ProbeAnswer(is_healthy, _ms(began), _summary(status, word, answer), answer)


def _ms(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 2)


def _get(request: ProbeRequest) -> tuple[int, bytes]:
    """Status and body of the last answer. Raises AdapterError."""
    address = request.address
    backend = _GuardedBackend(request.policy, Deadline(request.timeout_seconds))
    with httpcore.ConnectionPool(ssl_context=_trusted(), network_backend=backend) as pool:
        for _attempt in range(MAX_REDIRECTS + 1):
            status, body, location = _ask(pool, address)
            if status not in REDIRECTS or not location:
                return status, body
            address = urljoin(address, location)
    raise AdapterError(f"it redirects more than {MAX_REDIRECTS} times")


@cache
def _trusted() -> ssl.SSLContext:
    """Mozilla's authorities, and those that the machine trusts besides: a team may have its own."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


def _ask(pool: httpcore.ConnectionPool, address: str) -> tuple[int, bytes, str]:
    """Status, body and `Location` of one answer. Raises AdapterError."""
    parts = split_url(address)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise AdapterError("it is not an http:// or https:// address")
    bare = parts._replace(netloc=_ascii(parts.netloc.rpartition("@")[2]), fragment="")
    headers: list[tuple[bytes | str, bytes | str]] = [
        ("Host", bare.netloc),
        ("Accept", "application/json, */*"),
        ("Accept-Encoding", "identity"),
    ]
    if parts.username is not None:
        words = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers.append(("Authorization", f"Basic {b64encode(words.encode()).decode()}"))
    try:
        with pool.stream("GET", quote(bare.geturl(), safe=URL_SAFE), headers=headers) as answer:
            return answer.status, _read(answer), _location(answer)
    except (
        httpcore.NetworkError,
        httpcore.ProtocolError,
        httpcore.TimeoutException,
        httpcore.UnsupportedProtocol,
        ValueError,
    ) as error:
        lines = str(error).splitlines()
        raise AdapterError(lines[0] if lines else type(error).__name__) from error


def _ascii(netloc: str) -> str:
    """The name of a host as DNS knows it. Raises AdapterError for one that it cannot know."""
    try:
        return netloc if netloc.isascii() else netloc.encode("idna").decode()
    except UnicodeError:
        raise AdapterError("the name of its host is none") from None


def _read(answer: httpcore.Response) -> bytes:
    body = b""
    for chunk in answer.iter_stream():
        body += chunk
        if len(body) > MAX_BYTES:
            break
    return body[:MAX_BYTES]


def _location(answer: httpcore.Response) -> str:
    found = (value for name, value in answer.headers if name.lower() == b"location")
    return next(found, b"").decode("ascii", "replace")


class _GuardedBackend(httpcore.SyncBackend):
    """Connects to addresses that the policy allows, and waits for nothing beyond the deadline."""

    def __init__(self, policy: CallPolicy, deadline: Deadline) -> None:
        self._policy, self._deadline = policy, deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Raises AdapterError for a host that may not be called or is not known in time."""
        found = resolve(host, port, policy=self._policy, deadline=self._deadline)
        for number, address in enumerate(found, 1):
            left = self._deadline.left(timeout)
            try:
                stream = super().connect_tcp(
                    str(address), port, left, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if number == len(found):
                    raise
            else:
                return _TimedStream(stream, self._deadline)
        raise AdapterError(f"{host} has no address")


class _TimedStream(httpcore.NetworkStream):
    """A connection on which every wait ends at the deadline, the handshake of TLS among them."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        left = self._deadline.left(timeout)
        return _TimedStream(
            self._stream.start_tls(ssl_context, server_hostname, left), self._deadline
        )

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _parse(body: bytes) -> dict[str, Any]:
    """The answer as data that can be kept and shown, whatever is in it; {} where it is none."""
    try:
        value = json.loads(
            body, parse_int=_integer, parse_float=_fraction, parse_constant=_unreadable
        )
    except (ValueError, RecursionError):
        return {}
    return _kept(value) if isinstance(value, dict) else {}


def _integer(text: str) -> int | str:
    return int(text) if len(text) <= MOST_DIGITS else _unreadable(text)


def _fraction(text: str) -> float | str:
    number = float(text)
    return number if isfinite(number) else _unreadable(text)


def _unreadable(text: str) -> str:
    return one_line(text, MOST_CHARACTERS)


def _kept(value: Any, depth: int = 0) -> Any:
    """The value with texts of one line each, and no more of it than anybody reads."""
    if isinstance(value, str):
        return one_line(value, MOST_CHARACTERS)
    if not isinstance(value, dict | list):
        return value
    if depth == MOST_DEPTH:
        return "…"
    if isinstance(value, list):
        return [_kept(each, depth + 1) for each in value[:MOST_ENTRIES]]
    pairs = list(value.items())[:MOST_ENTRIES]
    return {one_line(name, MOST_OF_NAME): _kept(each, depth + 1) for name, each in pairs}


def _summary(status: int, word: str, answer: dict[str, Any]) -> str:
    """One line, in which no part leaves the others no room."""
    parts = [f"{status} {word}".strip()]
    if answer.get("error"):
        parts.append(one_line(str(answer["error"]), MOST_CHARACTERS))
    parts += [
        f"{count(value)} {name}"
        for name, value in answer.items()
        if isinstance(value, int) and not isinstance(value, bool)
    ]
    return one_line(", ".join(parts), SUMMARY_CHARACTERS)
