"""Every call that leaves the console: it ends in its time, by itself, and goes where it was judged.

The calls are found in the source: one that is new fails here until it says what it is.
"""

from __future__ import annotations

import ast
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path

import psycopg
import pytest

from backups_app.archives.dump import ToolSession, running_tool
from backups_app.stores import objects
from backups_app.stores.kinds import Credentials
from backups_app.stores.opening import open_store
from migrations_app.sources import git
from opsconsole.exceptions import AdapterError
from opsconsole.health.probes import PROBES, ProbeRequest
from opsconsole.outgoing import CallPolicy, Deadline
from opsconsole.targets import availability, server, swap
from opsconsole.targets.availability import AvailabilitySampler
from opsconsole.targets.dsn import Dsn
from opsconsole.targets.tools import find_tools

ROOT = Path(__file__).resolve().parent.parent
# What can open a connection, or start a program that can. Of those that do more: these names.
OPENERS = {
    "socket": {"socket", "create_connection", "getaddrinfo"},
    "subprocess": {"run", "Popen", "call", "check_call", "check_output"},
    "os": {"system", "popen", "execv", "execve", "execvp", "posix_spawn", "posix_spawnp"},
    "psycopg": {"connect", "Connection", "AsyncConnection"},
    "httpcore": {"ConnectionPool", "HTTPConnection", "SyncBackend", "request", "stream"},
    "obstore": {"S3Store", "AzureStore", "GCSStore", "HTTPStore", "from_url"},
    "opsconsole": {"Tool", "Supervised"},
}
WHOLE = {
    "aiohttp", "apprise", "asyncio", "boto3", "ftplib", "http", "httpx", "imaplib", "paramiko",
    "psycopg_pool", "redis", "requests", "smtplib", "telnetlib", "urllib3", "websockets", "xmlrpc",
}  # fmt: skip
OWN = "the console's own servers, or its demo's"
LOCAL = "a program of this machine, or an address of it, that calls nobody"
IN_ALL = "a part of every call"
BY_CANCEL = "ends with its run, by cancel; it looks its name up itself, as docs/admin.md says"
NOT_ASKED = {OWN, LOCAL, IN_ALL, BY_CANCEL}
CALLS = {
    # What people typed the address of.
    "opsconsole.health.probes.http._get": "http check",
    "opsconsole.health.probes.sql._first_row": "SQL check",
    "opsconsole.targets.server.connect": "session",
    "opsconsole.targets.availability._ask": "availability",
    "backups_app.archives.dump.running_tool": "pg_dump",
    "migrations_app.sources.git._git_bytes": "git",
    "backups_app.stores.objects._open": "storage",
    "migrations_app.engines.prisma_cli.run": BY_CANCEL,
    # Parts of those.
    "opsconsole.outgoing.ask": IN_ALL,
    "opsconsole.outgoing.answers": "session",
    "opsconsole.targets.server.cut_off_after": "session",
    "backups_app.stores.gateway._connect": "storage",
    "backups_app.runs.swapping._run_swap": "exchange",
    "opsconsole.processes.process.__init__": IN_ALL,
    "opsconsole.processes.supervisor.main": IN_ALL,
    # What calls nobody elsewhere.
    "opsconsole.outgoing._is_here": LOCAL,
    "opsconsole.targets.tools._inspect": LOCAL,
    "migrations_app.assess.lint._squawk": LOCAL,
    "opsconsole.embedded.postgres": OWN,
    "opsconsole.project.launch": OWN,
    "opsconsole.project.management.commands.up": OWN,
    "opsconsole.project.demo": OWN,
    "opsconsole.demo.traffic": OWN,
    "opsconsole.demo.backend": OWN,
}


def calls_in(file: Path) -> Iterator[str]:
    """`module.function` of everything in the file that can open a connection."""
    module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
    tree = ast.parse(file.read_text())
    names = dict(_imported(tree))
    for function, node in _called(tree, ""):
        whole = ast.unparse(node.func)
        first, _dot, rest = whole.partition(".")
        source = names.get(first, "")
        called = (rest or source).rpartition(".")[2]
        root = source.partition(".")[0]
        is_urlopen = source.startswith("urllib.request") or called == "urlopen"
        if root in WHOLE or is_urlopen or called in OPENERS.get(root, ()):
            yield f"{module}.{function}"


def _imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                yield each.asname or each.name.partition(".")[0], each.name
        elif isinstance(node, ast.ImportFrom):
            for each in node.names:
                yield each.asname or each.name, f"{node.module}.{each.name}"


def _called(node: ast.AST, function: str) -> Iterator[tuple[str, ast.Call]]:
    for child in ast.iter_child_nodes(node):
        inner = child.name if isinstance(child, ast.FunctionDef) else function
        if isinstance(child, ast.Call):
            yield inner, child
        yield from _called(child, inner)


@pytest.mark.fast
def test_each_call_that_leaves_the_console_is_known():
    packages = ("opsconsole", "backups_app", "migrations_app")
    files = [file for each in packages for file in (ROOT / each).rglob("*.py")]
    found = {call for file in files for call in calls_in(file)}
    known = {
        call for call in found for each in CALLS if call == each or call.startswith(f"{each}.")
    }
    assert found - known == set()
    unused = {
        each for each in CALLS if not any(f"{call}.".startswith(f"{each}.") for call in found)
    }
    assert unused == set()


@pytest.mark.fast
@pytest.mark.parametrize(
    "code",
    [
        "import httpx\ndef f(): httpx.get(x)",
        "from urllib.request import urlopen\ndef f(): urlopen(x)",
        "import urllib.request\ndef f(): urllib.request.urlopen(x)",
        "from socket import create_connection as c\ndef f(): c(x)",
        "import psycopg\ndef f():\n    with psycopg.connect(x) as y: pass",
        "from obstore.store import GCSStore\ndef f(): GCSStore(x)",
        "def f():\n    import smtplib\n    smtplib.SMTP(x)",
        "from opsconsole.processes.process import Tool\ndef f(): Tool(x)",
    ],
)
def test_call_is_found_however_it_is_written(tmp_path, monkeypatch, code):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "new.py").write_text(code)
    assert list(calls_in(tmp_path / "new.py")) == ["new.f"]


# -- a server that answers as it should not


HERE = ("127.0.0.1", 0)


@dataclass
class Bad:
    """A server for http, git, S3 and PostgreSQL at once. It drips a byte every 50 ms, or redirects.

    `at`: "sign-in" drips from the first byte on, "answer" from the first question on, "redirect"
    leads to a denied address.
    """

    at: str
    hits: int = 0
    listening: socket.socket = field(default_factory=lambda: socket.create_server(HERE))
    lines: list[socket.socket] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.listening.getsockname()[1])

    def serve(self) -> None:
        with suppress(OSError):
            while True:
                line, _address = self.listening.accept()
                self.lines.append(line)
                threading.Thread(target=self._talk, args=[line], daemon=True).start()

    def close(self) -> None:
        for line in (self.listening, *self.lines):
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
            line.close()

    def _talk(self, line: socket.socket) -> None:
        with line, suppress(OSError):
            asked = line.recv(65536)
            self.hits += bool(asked)
            if asked[:1] == b"\0":
                self._sign_in(line, asked)
            elif self.at == "redirect":
                place = b"https://169.254.169.254/latest/meta-data"
                line.sendall(b"HTTP/1.1 307 No\r\nContent-Length: 0\r\nLocation: " + place)
                line.sendall(b"\r\nConnection: close\r\n\r\n")
                return
            else:
                line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n")
            while True:
                line.sendall(b"x")
                time.sleep(0.05)

    def _sign_in(self, line: socket.socket, asked: bytes) -> None:
        """PostgreSQL's protocol: no TLS, then trust, then a row that is never whole."""
        while asked[4:8] in {b"\x04\xd2\x16\x2f", b"\x04\xd2\x16\x30"}:
            line.sendall(b"N")
            asked = line.recv(65536)
        if self.at == "sign-in":
            line.sendall(b"E" + (20_000).to_bytes(4, "big") + b"S")
            return
        settings = b"".join(
            b"S" + (4 + len(each)).to_bytes(4, "big") + each
            for each in (b"server_version\x0015.0\0", b"client_encoding\0UTF8\0")
        )
        line.sendall(b"R\0\0\0\x08\0\0\0\0" + settings + b"Z\0\0\0\x05I")
        line.recv(65536)
        line.sendall(b"D" + (100_000).to_bytes(4, "big"))


@pytest.fixture
def bad() -> Iterator[Callable[[str], Bad]]:
    made: list[Bad] = []

    def make(at: str) -> Bad:
        made.append(Bad(at))
        threading.Thread(target=made[-1].serve, daemon=True).start()
        return made[-1]

    yield make
    for each in made:
        each.close()


@dataclass(frozen=True)
class Asked:
    """Where a call goes, and a folder for what it keeps."""

    server: Bad
    folder: Path
    host: str = "127.0.0.1"

    @property
    def place(self) -> str:
        return f"{self.host}:{self.server.port}"

    @cached_property
    def dsn(self) -> Dsn:
        address = f"postgresql://u@{self.place}/d?sslmode=disable&connect_timeout=2"
        return Dsn.parse(address).pinned(CallPolicy(), Deadline(5))


def ask_http(asked: Asked) -> str:
    return PROBES["http"](ProbeRequest(f"http://{asked.place}/", 1)).summary


def ask_sql(asked: Asked) -> str:
    conninfo = asked.dsn.conninfo(application_name="t")
    return PROBES["sql"](ProbeRequest("SELECT 1", 1, conninfo=conninfo)).summary


def ask_session(asked: Asked) -> str:
    return _said(lambda: server.connect(asked.dsn, application_name="t"))


def ask_exchange(asked: Asked) -> str:
    order = swap.Order(asked.dsn, "t", "a", "b", "c")
    return _said(lambda: swap.Swap(order, lambda _step: None))


def ask_availability(asked: Asked) -> str:
    latency = AvailabilitySampler(asked.dsn, "t", 1)._ask()
    return "no answer" if latency is None else "answered"


def ask_pg_dump(asked: Asked) -> str:
    """It is waited for until its run is cancelled: here, once it has connected."""
    tools = find_tools()[-1]
    began = time.monotonic()

    def is_stopping() -> bool:
        passed = time.monotonic() - began
        return passed > 5 or (passed > 1 and asked.server.hits > 0)

    def run() -> None:
        session = ToolSession("t", lambda _line: None, is_stopping, 20, 1)
        arguments = asked.dsn.tool_arguments()
        with running_tool([tools.pg_dump, *arguments], asked.dsn, session) as tool:
            tool.finish()

    return _said(run)


def ask_git(asked: Asked) -> str:
    url = f"http://{asked.place}/shop.git"
    repository = git.Repository(url, asked.folder / "git", seconds=1)
    return _said(lambda: git.read_folder(repository, "main", "prisma/migrations"))


def ask_storage(asked: Asked) -> str:
    store = open_store(f"s3://bucket?endpoint=http://{asked.place}", Credentials("key", "secret"))
    return _said(lambda: store.list("a"))


def _said(act: Callable[[], object]) -> str:
    try:
        act()
    except (AdapterError, psycopg.Error) as error:
        return str(error)
    return "it went well"


ASK: dict[str, Callable[[Asked], str]] = {
    "http check": ask_http,
    "SQL check": ask_sql,
    "session": ask_session,
    "exchange": ask_exchange,
    "availability": ask_availability,
    "pg_dump": ask_pg_dump,
    "git": ask_git,
    "storage": ask_storage,
}
# What is said of a server that drips from the first byte on, and of one that drips its answer.
CUT = "server closed the connection unexpectedly"
DRIPPING = {
    "http check": ("no answer: timed out", "no answer: timed out"),
    "SQL check": ("connection timeout expired", CUT),
    "session": ("connection timeout expired", CUT),
    "exchange": ("connection timeout expired", CUT),
    "availability": ("no answer", "no answer"),
    "pg_dump": ("pg_dump ended with exit status", "pg_dump ended with exit status"),
    "git": ("it was not read within 1 s", "it was not read within 1 s"),
    "storage": ("cannot list a: the storage did not answer in time",) * 2,
}
MOST_SECONDS = 7


@pytest.fixture(autouse=True)
def _short(monkeypatch) -> None:
    quick = {"init_backoff": timedelta(milliseconds=10), "max_backoff": timedelta(milliseconds=20)}
    monkeypatch.setattr(server, "SESSION_SECONDS", 1)
    monkeypatch.setattr(swap, "STUCK_AFTER_SECONDS", 1)
    monkeypatch.setattr(availability, "ANSWER_SECONDS", 1)
    monkeypatch.setattr(objects, "TIMEOUTS", {"timeout": "1s", "connect_timeout": "1s"})
    monkeypatch.setattr(
        objects,
        "RETRIES",
        {"max_retries": 1, "retry_timeout": timedelta(seconds=1), "backoff": quick | {"base": 2}},
    )


@pytest.mark.fast
def test_each_call_of_the_source_is_asked():
    assert set(ASK) == set(DRIPPING) == set(CALLS.values()) - NOT_ASKED


def test_server_that_drips_costs_each_call_its_own_time_and_no_more(bad, tmp_path):
    servers = [bad("sign-in"), bad("answer")]

    def ask(name: str, number: int) -> str:
        folder = tmp_path / f"{name}{number}"
        folder.mkdir()
        return ASK[name](Asked(servers[number], folder))

    with ThreadPoolExecutor(2 * len(ASK)) as pool:
        asked = {(name, at): pool.submit(ask, name, at) for name in ASK for at in (0, 1)}
        wait(asked.values(), timeout=MOST_SECONDS)
        late = {key for key, future in asked.items() if not future.done()}
        for each in servers:
            each.close()
    assert late == set()
    found = {key: future.result() for key, future in asked.items()}
    wrong = {key: said for key, said in found.items() if DRIPPING[key[0]][key[1]] not in said}
    assert wrong == {}


DENIED = "the console does not call 169.254.169.254"
REDIRECTED = {
    "http check": DENIED,
    "git": "it redirects: give the address that it leads to",
    "storage": DENIED,
}


@pytest.mark.parametrize("name", REDIRECTED)
def test_redirect_to_a_denied_address_is_not_followed(bad, tmp_path, name):
    said = ASK[name](Asked(bad("redirect"), tmp_path))
    assert REDIRECTED[name] in said


@pytest.mark.parametrize("name", ASK)
def test_name_leads_to_the_address_that_was_judged_and_to_no_other(
    bad, tmp_path, monkeypatch, name
):
    """A program that is started finds no such name: it is there only when it looks nothing up."""
    real, asked = socket.getaddrinfo, []

    def rebind(host, *rest, **named):
        if host != "rebind.test":
            return real(host, *rest, **named)
        asked.append(host)
        return real("127.0.0.1" if len(asked) == 1 else "169.254.169.254", *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", rebind)
    monkeypatch.setattr(git, "LOOPBACK", {"rebind.test"})
    there = bad("answer")
    ASK[name](Asked(there, tmp_path, "rebind.test"))
    assert (there.hits > 0, asked[:1]) == (True, ["rebind.test"])
    # The library for buckets asks again for each connection, and each answer is judged.
    assert len(asked) == 1 or name == "storage"
