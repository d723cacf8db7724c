"""Every probe: good, bad, slow, wrong and away; it never raises."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from django.db import connection

from opsconsole.environments import calling
from opsconsole.environments.secrets import seal
from opsconsole.health.models import HealthResult
from opsconsole.health.probes import PROBES, ProbeRequest
from opsconsole.health.services import SAMPLE_HEALTH, keep_results
from opsconsole.health.tasks import sample_health
from opsconsole.outgoing import CallPolicy, networks
from opsconsole.work.turns import turn
from tests.conftest import dsn_for, superuser, url
from tests.worker import as_worker, check_environment, observe_target

OWN = "this is the console's own database: it is neither migrated, restored nor asked"

ANSWERS = {
    "/good": (200, {"status": "healthy", "users": 2000, "flag": True}),
    "/plain": (204, None),
    "/bad": (500, {"status": "unhealthy", "error": "no database"}),
    "/lies": (200, {"status": "unhealthy"}),
    "/list": (200, [1, 2]),
}


# Each as the text of a field, and as the JSON of an answer.
HOSTILE = {
    "nul": r'"a\u0000b"',
    "half a surrogate pair": r'"a\ud800b"',
    "one megabyte": f'"{"x" * 1_000_000}"',
    "a long text": f'"{"x" * 20_000}"',
    "bidi": '"a\u202eb\u2066c"',
    "ansi": r'"\u001b[31mred\u001b]0;title\u0007"',
    "lines": r'"one\r\ntwo"',
    "brackets": "[" * 60_000,
    "nested": "[" * 500 + "]" * 500,
    "a huge integer": "9" * 5_000,
    "no number": "NaN",
    "beyond a float": "1e999",
    "markup": '"<script>alert(1)</script>"',
}
FIELDS = ("status", "error", "name", "nested")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/drip"):
            self._drip()
            return
        if self.path == "/metadata":
            self.send_response(302)
            self.send_header("Location", "http://169.254.169.254/latest/meta-data/")
            self.end_headers()
            return
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
            text = body if isinstance(body, str) else json.dumps(body)
            self.wfile.write(text.encode())

    def _drip(self) -> None:
        """A byte every 50 ms: of a header that never ends, or of a body."""
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n"
        self.wfile.write(head + (b"X: " if self.path == "/drip-head" else b"\r\n"))
        with suppress(OSError):
            for _ in range(100):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.05)

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
        ("/round", False, "no answer: it redirects more than 3 times"),
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


@pytest.fixture(scope="module")
def silent() -> Iterator[str]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def resolve_late(*_arguments: object, **_options: object) -> None:
    time.sleep(2)
    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


@pytest.mark.parametrize("path", ["drip-head", "drip-body", "silent http", "silent https", "dns"])
def test_http_probe_takes_no_longer_than_its_time(address, silent, monkeypatch, path):
    place = f"{address}/{path}"
    if path.startswith("silent"):
        place = f"{path.split()[1]}://{silent}/"
    if path == "dns":
        place = "http://name.test/"
        monkeypatch.setattr(socket, "getaddrinfo", resolve_late)
    began = time.monotonic()
    answer = PROBES["http"](ProbeRequest(place, 0.3))
    assert (answer.is_healthy, time.monotonic() - began < 1) == (False, True)
    assert "time" in answer.summary or "was not resolved within 0.3 s" in answer.summary


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[fe80::1]",
        "0.0.0.0",
        "0251.0376.0251.0376",
        "2852039166",
    ],
)
def test_denied_addresses_are_not_called_in_any_spelling(host):
    answer = PROBES["http"](ProbeRequest(f"http://{host}/", 5))
    assert answer.summary.startswith("no answer: the console does not call ")


def test_redirect_is_judged_as_an_address_of_its_own(address):
    answer = PROBES["http"](ProbeRequest(address + "/metadata", 5))
    assert answer.summary.startswith("no answer: the console does not call 169.254.169.254")


def test_name_is_resolved_once_and_what_was_judged_is_called(address, monkeypatch):
    meant = iter(["127.0.0.1", "169.254.169.254"])
    port = int(address.rpartition(":")[2])
    real = socket.getaddrinfo

    def rebind(host, *rest, **options):
        return real(next(meant) if host == "rebind.test" else host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebind)
    request = ProbeRequest(f"http://rebind.test:{port}/good", 5)
    assert PROBES["http"](request).is_healthy
    assert list(meant) == ["169.254.169.254"]


def test_allowed_network_may_lie_in_a_denied_one(address):
    only = CallPolicy(networks(["127.0.0.1"]), networks(["0.0.0.0/0", "::/0"]))
    assert PROBES["http"](ProbeRequest(address + "/good", 5, policy=only)).is_healthy
    other = ProbeRequest(address.replace("127.0.0.1", "127.0.0.2") + "/good", 5, policy=only)
    assert "does not call 127.0.0.2" in PROBES["http"](other).summary


@pytest.mark.parametrize("name", FIELDS)
def test_hostile_answers_are_kept_and_shown(address, environment, as_role, monkeypatch, name):
    client = as_role("viewer")
    for kind, text in HOSTILE.items():
        monkeypatch.setitem(ANSWERS, "/hostile", (500, f'{{"{name}": {text}, "users": 7}}'))
        answer = PROBES["http"](ProbeRequest(address + "/hostile", 5))
        assert (kind, answer.is_healthy, answer.summary.isprintable()) == (kind, False, True)
        if kind not in {"one megabyte", "brackets"}:  # longer than what is read, and no JSON
            assert (kind, "7 users" in answer.summary) == (kind, True)
        keep_results(
            [
                HealthResult(
                    check_name=kind,
                    environment=environment,
                    is_healthy=answer.is_healthy,
                    latency_ms=answer.latency_ms,
                    summary=answer.summary,
                    answer=answer.answer,
                )
            ]
        )
        assert HealthResult.objects.filter(check_name=kind, answer=answer.answer).count() == 1
    page = client.get(url(environment, "environment")).content.decode()
    assert "<script>alert" not in page
    assert "markup" in page


def test_hostile_name_of_a_field_is_one_line(address, monkeypatch):
    monkeypatch.setitem(ANSWERS, "/hostile", (200, r'{"a\u0000\u202e\u001b[1m b": 3}'))
    answer = PROBES["http"](ProbeRequest(address + "/hostile", 5))
    assert (answer.summary, answer.answer) == ("200, 3 a b", {"a b": 3})


@pytest.mark.parametrize(
    ("query", "is_healthy", "words"),
    [
        ("SELECT 1", True, "answered 1"),
        ("SELECT false", False, "answered False"),
        ("SELECT 1 WHERE false", False, "answered no row"),
        ("SELECT pg_sleep(5)", False, "canceling statement due to statement timeout"),
        ("CREATE TABLE t ()", False, "cannot execute CREATE TABLE in a read-only transaction"),
        ("SELECT 1; SELECT 2", False, "cannot insert multiple commands into a prepared statement"),
        ("COMMIT; CREATE TABLE t ()", False, "cannot insert multiple commands"),
        ("SET TRANSACTION READ WRITE", False, "must be set before any query"),
        (
            "DO $$BEGIN COMMIT; SET TRANSACTION READ WRITE; CREATE TABLE t (); END$$",
            False,
            "invalid transaction termination",
        ),
        ("SELECT set_config('transaction_read_only', 'off', false)", False, "before any query"),
        ("SELECT nextval('s')", False, "does not exist"),
        ("SELECT", False, "answered no row"),
        ("SELECT generate_series(1, 1000000000)", True, "answered 1"),
        ("SELECT repeat('x', 10000000)", True, "answered xxx"),
        ("SELECT E'a\\u202eb\\n' || chr(27) || '[31mc'", True, "answered ab c"),
        ("SELECT (repeat('[', 3000) || repeat(']', 3000))::json", False, "recursion"),
        ("SELECT 'infinity'::date", False, "date too large"),
    ],
)
def test_sql_probe_judges_the_first_value_and_writes_nothing(database, query, is_healthy, words):
    seconds = 0.3 if "pg_sleep" in query else 30
    answer = PROBES["sql"](ProbeRequest(query, seconds, conninfo=database()))
    assert (answer.is_healthy, words in answer.summary) == (is_healthy, True)


def test_sql_probe_ends_in_its_time_when_the_server_is_stuck(database):
    dsn = database()
    pids: list[int] = []

    def freeze() -> None:
        with superuser() as watching:
            while not pids:
                pids.extend(
                    pid
                    for (pid,) in watching.execute(
                        "SELECT pid FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(9)'"
                    )
                )
        os.kill(pids[0], signal.SIGSTOP)

    thread = threading.Thread(target=freeze)
    thread.start()
    try:
        began = time.monotonic()
        answer = PROBES["sql"](ProbeRequest("SELECT pg_sleep(9)", 1, conninfo=dsn))
        assert (answer.is_healthy, time.monotonic() - began < 3) == (False, True)
    finally:
        thread.join()
        os.kill(pids[0], signal.SIGCONT)


def test_own_database_is_neither_asked_nor_read_by_any_spelling(environment):
    """Its name is told apart by nothing: the address leads there, whatever it looks like."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_database()")
        (name,) = cursor.fetchone()
    environment.targets.update(dsn_encrypted=seal(dsn_for(name, environment.dsn.split(":")[1][2:])))
    (result,) = check_environment(environment)
    assert (result.is_healthy, result.summary) == (False, OWN)
    assert observe_target(environment.targets.get()).error == OWN


def test_slow_check_holds_up_no_other(address, environment):
    for number in range(6):
        environment.health_checks.create(
            name=f"slow {number}", kind="http", address=f"{address}/drip-body", timeout_seconds=1
        )
    began = time.monotonic()
    found = {result.check_name: result.is_healthy for result in check_environment(environment)}
    assert time.monotonic() - began < 3
    assert found == {"amounts": True} | {f"slow {number}": False for number in range(6)}


def test_environment_that_is_being_asked_takes_no_second_thread(environment):
    with as_worker():
        with turn(SAMPLE_HEALTH, environment.pk):
            sample_health(environment.pk)
        assert not environment.health_results.exists()
        sample_health(environment.pk)
    assert environment.health_results.count() == 1


@pytest.mark.parametrize("spelling", ["127.0.0.1", "127.1.2.3", "[::1]", "localhost", "2130706433"])
def test_own_broker_is_not_asked_by_any_spelling(address, settings, environment, spelling):
    port = address.rpartition(":")[2]
    settings.REDIS_URL = f"redis://:secret@127.0.0.1:{port}/0"
    calling._own_sockets.cache_clear()
    environment.health_checks.update(kind="http", address=f"http://{spelling}:{port}/good")
    (result,) = check_environment(environment)
    calling._own_sockets.cache_clear()
    assert (result.is_healthy, "is the console's own database or broker" in result.summary) == (
        False,
        True,
    )
