"""The way out of the library for buckets: a proxy of this process that judges each address.

The library resolves names itself, follows redirects, and takes neither a resolver nor a policy.
But it takes a proxy, and then opens no connection of its own: each is asked for here by name,
resolved once, judged, and made to that very address. TLS stays between the library and the
storage. Source: RFC 9110, CONNECT, and RFC 9112, absolute form.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
from base64 import b64decode
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from opsconsole.exceptions import AdapterError
from opsconsole.outgoing import CallPolicy, Deadline, NotAllowed, resolve

CONNECT_SECONDS = 10
MOST_OF_HEAD = 64 * 1024
PIECE_BYTES = 256 * 1024
PORTS = {"http": 80, "https": 443}

_passages: WeakValueDictionary[str, Passage] = WeakValueDictionary()


@dataclass(eq=False)
class Passage:
    """What one store may call. `trouble` says why its last connection was not made, "" if it was.

    It is open as long as it is kept. Its key keeps other programs of this machine out.
    """

    policy: CallPolicy
    trouble: str = ""
    key: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)

    @property
    def url(self) -> str:
        """The address of the proxy, key included: never log it."""
        _passages[self.key] = self
        return f"http://store:{self.key}@127.0.0.1:{_listen(os.getpid())}"


@lru_cache(maxsize=1)
def _listen(_process: int) -> int:
    """The port of this process's proxy, which is begun with the first passage."""
    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=[server], name="store-gateway", daemon=True).start()
    return int(server.getsockname()[1])


def _accept(server: socket.socket) -> None:
    while True:
        line, _address = server.accept()
        threading.Thread(target=_serve, args=[line], name="store-call", daemon=True).start()


def _serve(line: socket.socket) -> None:
    """One connection of the library's, for one request or, with CONNECT, for one tunnel."""
    with closing(line), suppress(OSError, ValueError):
        line.settimeout(CONNECT_SECONDS)
        head, rest = _read_head(line)
        request, *headers = head.split(b"\r\n")
        passage = _passage_of(headers)
        if passage is None:
            _answer(line, 407, "Proxy Authentication Required")
            return
        method, target, version = request.decode("ascii").split(" ")
        try:
            storage = _connect(target, is_tunnel=method == "CONNECT", policy=passage.policy)
        except AdapterError as error:
            passage.trouble = str(error)
            is_denied = isinstance(error, NotAllowed)
            _answer(line, *((403, "Forbidden") if is_denied else (502, "Bad Gateway")))
            return
        passage.trouble = ""
        with closing(storage):
            if method == "CONNECT":
                line.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                kept = [each for each in headers if not each.lower().startswith(b"proxy-")]
                first = f"{method} {_path_of(target)} {version}".encode()
                rest = b"\r\n".join([first, *kept]) + b"\r\n\r\n" + rest
            storage.sendall(rest)
            _join(line, storage)


def _read_head(line: socket.socket) -> tuple[bytes, bytes]:
    """The request's head, and what came with it. Raises ValueError for what is none."""
    read = b""
    while b"\r\n\r\n" not in read:
        piece = line.recv(MOST_OF_HEAD)
        read += piece
        if not piece or len(read) > MOST_OF_HEAD:
            raise ValueError("no request")
    head, _end, rest = read.partition(b"\r\n\r\n")
    return head, rest


def _passage_of(headers: list[bytes]) -> Passage | None:
    for each in headers:
        name, _colon, value = each.partition(b":")
        if name.lower() == b"proxy-authorization":
            given = b64decode(value.split()[-1]).decode("ascii")
            return _passages.get(given.partition(":")[2])
    return None


def _connect(target: str, *, is_tunnel: bool, policy: CallPolicy) -> socket.socket:
    """Raises AdapterError for a host that may not be called, is unknown or does not answer."""
    parts = urlsplit(f"//{target}" if is_tunnel else target)
    host, port = parts.hostname or "", parts.port or PORTS.get(parts.scheme, 443)
    deadline = Deadline(CONNECT_SECONDS)
    why = "it has no address"
    for address in resolve(host, port, policy=policy, deadline=deadline):
        try:
            return socket.create_connection((str(address), port), deadline.left())
        except OSError as error:
            why = (error.strerror or str(error)).lower()
    raise AdapterError(f"the storage cannot be reached ({why})")


def _path_of(target: str) -> str:
    parts = urlsplit(target)
    return f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"


def _answer(line: socket.socket, status: int, word: str) -> None:
    line.sendall(f"HTTP/1.1 {status} {word}\r\nContent-Length: 0\r\n\r\n".encode())


def _join(line: socket.socket, storage: socket.socket) -> None:
    """Carry bytes both ways until either side is done; the library's own limits end a slow one."""
    for each in (line, storage):
        each.settimeout(None)
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    back = threading.Thread(
        target=_carry, args=[storage, line, socket.SHUT_WR], name="store-answer", daemon=True
    )
    back.start()
    _carry(line, storage, socket.SHUT_RDWR)
    back.join()


def _carry(source: socket.socket, taker: socket.socket, how: int) -> None:
    buffer = memoryview(bytearray(PIECE_BYTES))
    with suppress(OSError):
        while read := source.recv_into(buffer):
            taker.sendall(buffer[:read])
    with suppress(OSError):
        taker.shutdown(how)
