"""Every probe: good, bad, slow, wrong and away; it never raises."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from opsconsole.health.probes import PROBES, ProbeRequest

ANSWERS = {
    "/good": (200, {"status": "healthy", "users": 2000, "flag": True}),
    "/plain": (204, None),
    "/bad": (500, {"status": "unhealthy", "error": "no database"}),
    "/lies": (200, {"status": "unhealthy"}),
    "/list": (200, [1, 2]),
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/slow":
            time.sleep(1)
        if self.path == "/round":
            self.send_response(302)
            self.send_header("Location", "/round")
            self.end_headers()
            return
        status, body = ANSWERS.get(self.path, (200, {"status": "ok", "junk": "x" * 100_000}))
        self.send_response(status)
        self.end_headers()
        if self.path == "/deep":
            self.wfile.write(b"[" * 60_000)
        elif body is not None:
            self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_arguments: object) -> None:
        """Silent."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "is_healthy", "words"),
    [
        ("/good", True, "200 healthy, 2,000 users"),
        ("/plain", True, "204"),
        ("/list", True, "200"),
        ("/deep", True, "200"),
        ("/bad", False, "500 unhealthy, no database"),
        ("/lies", False, "200 unhealthy"),
        ("/slow", False, "no answer: timed out"),
        ("/round", False, "no answer: Exceeded maximum allowed redirects."),
    ],
)
def test_http_probe_judges_status_and_word(address, path, is_healthy, words):
    answer = PROBES["http"](ProbeRequest(address + path, 0.5 if path == "/slow" else 30))
    assert (answer.is_healthy, answer.summary) == (is_healthy, words)


def test_http_probe_of_nothing_is_unhealthy():
    for nowhere in ("http://127.0.0.1:1/", "not an address", "ftp://x/"):
        assert not PROBES["http"](ProbeRequest(nowhere, 30)).is_healthy


def test_http_probe_reads_no_endless_answer(address):
    assert PROBES["http"](ProbeRequest(address + "/junk", 30)).is_healthy


@pytest.mark.parametrize(
    ("query", "is_healthy", "words"),
    [
        ("SELECT 1", True, "answered 1"),
        ("SELECT false", False, "answered False"),
        ("SELECT 1 WHERE false", False, "answered no row"),
        ("SELECT pg_sleep(5)", False, "canceling statement due to statement timeout"),
        ("CREATE TABLE t ()", False, "cannot execute CREATE TABLE in a read-only transaction"),
    ],
)
def test_sql_probe_judges_the_first_value_and_writes_nothing(database, query, is_healthy, words):
    seconds = 0.3 if "pg_sleep" in query else 30
    answer = PROBES["sql"](ProbeRequest(query, seconds, conninfo=database()))
    assert (answer.is_healthy, words in answer.summary) == (is_healthy, True)
