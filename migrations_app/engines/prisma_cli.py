"""Prisma's own CLI, in the version that the project pins, one migration at a time.

Sources: Prisma's documentation of `migrate deploy`, of connection URLs for PostgreSQL and of
`prisma.config.ts`, and the CLI itself (6.19 and 7).
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urlencode

import psycopg

from migrations_app.engines.applying import BACKOFF_SECONDS
from migrations_app.engines.evidence import read_evidence
from migrations_app.engines.kinds import (
    FolderReading,
    Limits,
    Log,
    MigrationScript,
    Outcome,
    ScriptFailed,
    ScriptUnknown,
)
from migrations_app.engines.prisma import SPLITTING_SINCE, PrismaEngine
from migrations_app.engines.statements import Control, control_of
from opsconsole.exceptions import AdapterError, Cancelled
from opsconsole.formats import duration
from opsconsole.processes.process import Tool, allowed_environment
from opsconsole.redaction import redact
from opsconsole.statuses import gettext_noop
from opsconsole.targets import server

SEARCHED_PARENTS = 4
# 8 keeps its history elsewhere.
SUPPORTED_MAJORS = {"6", "7"}
LOCK_FILES = {
    "package-lock.json": r'"node_modules/prisma": \{\s*"version": "([^"]+)"',
    "pnpm-lock.yaml": r"^  '?/?prisma@(\d[^:('\s]*)",
    "yarn.lock": r'^"?prisma@[^\n]*:\n\s+version:? "?([^"\s]+)',
    "bun.lock": r'"prisma": \["prisma@([^"]+)"',
}
# What an installation without its downloads needs to be told.
PASSED_ON = ("PRISMA_", "NODE_EXTRA_CA_CERTS")
ADDRESS_VARIABLE = re.compile(r"""env\(\s*["'](\w+)["']\s*\)|process\.env\.(\w+)""")
URL_LINE = re.compile(r"^\s*(?:directUrl|url)\s*[=:]\s*(.+)$", re.MULTILINE)
LOCK_TIMEOUT = re.compile(r"\b55P03\b|due to lock timeout")
MIGRATIONS_PATH = re.compile(r"""migrations:\s*\{[^}]*path:\s*["']([^"']+)["']""")
DATASOURCE = re.compile(r"^datasource\s+\w+\s*\{(.*?)^\}", re.MULTILINE | re.DOTALL)
HEARTBEAT_SECONDS = 20
GRACE_SECONDS = 10
POLL_SECONDS = 0.1
# The CLI's own sessions are named apart, so that they can be ended alone.
CLI_SUFFIX = ":cli"


class PrismaCliEngine(PrismaEngine):
    """See `Engine`; reads as `PrismaEngine` does, applies by running `prisma migrate deploy`.

    What is run is the text that was read, in a copy of the project that holds the applied
    migrations and this one only. Its end is read from the history table, not from its output.
    """

    label = gettext_noop("Prisma, by its own CLI")

    @classmethod
    def folder_of(cls, path: PurePosixPath) -> PurePosixPath | None:
        return None

    def read_folder(self) -> FolderReading:
        reading = super().read_folder()
        try:
            project = Project.of(self.folder)
            project.check_location(self.folder)
        except AdapterError as error:
            return replace(reading, problems=[*reading.problems, str(error)])
        if not project.splits_scripts:
            return reading
        return replace(reading, scripts=[_as_split(script) for script in reading.scripts])

    def session_names(self, name: str) -> list[str]:
        return [name, f"{name}{CLI_SUFFIX}"]

    def take_lock(
        self, connection: psycopg.Connection, limits: Limits, sleep: Callable[[float], None]
    ) -> None:
        """Wait until nobody holds it, and leave it to the CLI, which takes it itself."""
        super().take_lock(connection, limits, sleep)
        connection.execute("SELECT pg_advisory_unlock_all()")

    def begin_session(self, connection: psycopg.Connection) -> None:
        """Nothing: the scripts run in the CLI's own session."""

    def apply(
        self,
        connection: psycopg.Connection,
        script: MigrationScript,
        limits: Limits,
        log: Log,
        sleep: Callable[[float], None],
    ) -> Outcome:
        project = Project.of(self.folder)
        applied = {row.name for row in self.read_history(connection) if row.is_applied}
        scripts = [s for s in self.read_folder().scripts if s.name in applied]
        deadline = time.monotonic() + limits.lock_patience
        with project.copy_of(self.folder, [*scripts, script]) as root:
            attempt = 0
            while True:
                was_cancelled = self._deploy(connection, project, root, script, limits, log, sleep)
                rows = self.read_history(connection)
                self._require_only(script, {r.name for r in rows if r.is_applied} - applied)
                last = next((r for r in reversed(rows) if r.name == script.name), None)
                if last and last.is_applied:
                    return Outcome(list(script.statements))
                reason = "cancelled" if was_cancelled else _reason(last.logs if last else "")
                failure = self._failure(connection, script, reason)
                is_retried = LOCK_TIMEOUT.search(failure.reason) and not failure.outcome.landed
                if was_cancelled or not is_retried or time.monotonic() > deadline:
                    raise failure
                pause = BACKOFF_SECONDS[min(attempt, len(BACKOFF_SECONDS) - 1)]
                log(f"  a lock was not free; trying again in {duration(pause)}", "hm")
                self.mark_rolled_back(connection, script.name)
                sleep(pause)
                attempt += 1

    def _require_only(self, script: MigrationScript, applied_now: set[str]) -> None:
        others = applied_now - {script.name}
        if others:
            raise AdapterError(
                f"the CLI applied {', '.join(sorted(others))} beside {script.name}: it reads "
                "another folder than this environment's"
            )

    def _deploy(
        self,
        connection: psycopg.Connection,
        project: Project,
        root: Path,
        script: MigrationScript,
        limits: Limits,
        log: Log,
        sleep: Callable[[float], None],
    ) -> bool:
        """Run it to its end; returns whether it was told to stop before."""
        url = address_of(connection, self.schema, script, limits)
        password = connection.info.password
        secrets = (password, quote(password, safe=""))

        def say(line: str) -> None:
            if line.strip():
                log(f"  prisma: {redact(line, secrets)}", "")

        with project.run(root, ["migrate", "deploy"], url, say) as tool:
            try:
                while tool.supervised.poll() is None:
                    time.sleep(POLL_SECONDS)
                    sleep(0)
            except Cancelled:
                tool.supervised.stop()
                server.end_sessions(connection, _cli_session(connection))
                return True
        return False

    def _failure(
        self, connection: psycopg.Connection, script: MigrationScript, reason: str
    ) -> ScriptFailed:
        """What landed of it; raises ScriptUnknown when the catalogue does not show that."""
        evidence = read_evidence(connection, script.statements, self.schema)
        landed = 0 if script.is_atomic else evidence.landed
        if landed is None:
            raise ScriptUnknown(script, script.statements[0], Outcome(), reason)
        statement = script.statements[min(landed, len(script.statements) - 1)]
        return ScriptFailed(
            script, statement.line, statement, reason, Outcome(list(script.statements[:landed]))
        )


class Project:
    """The Node.js project that a migrations folder belongs to, with Prisma installed in it."""

    def __init__(self, root: Path, version: str) -> None:
        self.root = root
        self.version = version

    @classmethod
    def of(cls, folder: Path) -> Project:
        """Find it. Raises AdapterError when Prisma is not installed there in its pinned version."""
        for root in list(folder.resolve().parents)[:SEARCHED_PARENTS]:
            package = root / "node_modules" / "prisma" / "package.json"
            if package.is_file():
                return cls._checked(root, package)
        raise AdapterError(
            f"Prisma's CLI is not installed beside {folder}: run `npm ci` in the project on the "
            "workers (the console never fetches one)"
        )

    @classmethod
    def _checked(cls, root: Path, package: Path) -> Project:
        found = re.search(r'"version":\s*"([^"]+)"', package.read_text())
        version = found[1] if found else ""
        pinned = _pinned_version(root)
        if pinned and pinned != version:
            raise AdapterError(
                f"node_modules in {root} holds Prisma {version}, and the project pins {pinned}: "
                "run `npm ci` there"
            )
        if version.split(".")[0] not in SUPPORTED_MAJORS:
            raise AdapterError(f"Prisma {version or 'of no version'} is not one of 6 and 7")
        return cls(root, version)

    @property
    def splits_scripts(self) -> bool:
        """Whether this version sends a file statement by statement, so that part of it can land."""
        numbers = re.match(r"(\d+)\.(\d+)", self.version)
        return numbers is not None and tuple(map(int, numbers.groups())) >= SPLITTING_SINCE

    def check_location(self, folder: Path) -> None:
        """Raise AdapterError when the CLI would look for migrations elsewhere."""
        folder = folder.resolve()
        for config in self.root.glob("prisma.config.*"):
            named = MIGRATIONS_PATH.search(config.read_text())
            if named and (self.root / named[1]).resolve() != folder:
                raise AdapterError(
                    f"{config.name} keeps the migrations in {named[1]}, not in {folder}"
                )
            if named:
                return
        if folder.name != "migrations" or not any(folder.parent.glob("*.prisma")):
            raise AdapterError(
                f"the CLI looks for `migrations` beside the schema, and there is no schema beside "
                f"{folder}"
            )

    @contextmanager
    def copy_of(self, folder: Path, scripts: list[MigrationScript]) -> Iterator[Path]:
        """A project like this one, whose migrations folder holds those scripts only.

        Files are copied and folders linked: a configuration behind a link would be followed, and
        the CLI would then work on the folder that it lies in.
        """
        inside = folder.resolve().relative_to(self.root)
        with tempfile.TemporaryDirectory(prefix="opsconsole-prisma-") as name:
            copy, original = Path(name), self.root
            for part in inside.parts:
                for entry in original.iterdir():
                    if entry.is_file():
                        shutil.copyfile(entry, copy / entry.name)
                    elif entry.name != part:
                        (copy / entry.name).symlink_to(entry)
                copy, original = copy / part, original / part
                copy.mkdir()
            if (original / "migration_lock.toml").exists():
                (copy / "migration_lock.toml").symlink_to(original / "migration_lock.toml")
            for script in scripts:
                file = copy / script.file
                file.parent.mkdir()
                file.write_bytes(script.sql.encode())
            yield Path(name)

    @contextmanager
    def run(
        self, root: Path, words: list[str], url: str, say: Callable[[str], None]
    ) -> Iterator[Tool]:
        """Run the project's CLI in `root` against `url`; `say` gets each line it prints."""
        variables = dict.fromkeys(self._address_variables(), url)
        tool = Tool(
            [str(root / "node_modules" / ".bin" / "prisma"), *words],
            on_line=say,
            is_stopping=lambda: False,
            environment=allowed_environment(
                *PASSED_ON,
                **variables,
                CHECKPOINT_DISABLE="1",
                NO_COLOR="1",
                CI="1",
                PRISMA_HIDE_UPDATE_MESSAGE="1",
            ),
            heartbeat_seconds=HEARTBEAT_SECONDS,
            grace_seconds=GRACE_SECONDS,
            merges_output=True,
            cwd=root,
        )
        with tool:
            yield tool

    def _address_variables(self) -> set[str]:
        """The variables from which the project reads its database's address.

        Raises AdapterError for an address that is written out: the CLI would go there.
        """
        found = {"DATABASE_URL"}
        for text in self._datasources():
            for value in URL_LINE.findall(text):
                names = {a or b for a, b in ADDRESS_VARIABLE.findall(value)}
                if not names and re.search(r"""["']\s*(?:postgres|prisma)""", value):
                    raise AdapterError(
                        "the project's Prisma configuration spells an address out: read it with "
                        'env("DATABASE_URL"), so that the CLI goes to this environment'
                    )
                found |= names
        return found

    def _datasources(self) -> Iterator[str]:
        for file in self.root.glob("prisma.config.*"):
            yield file.read_text()
        for file in [*self.root.glob("*.prisma"), *(self.root / "prisma").glob("**/*.prisma")]:
            yield from DATASOURCE.findall(file.read_text())


def address_of(
    connection: psycopg.Connection, schema: str, script: MigrationScript, limits: Limits
) -> str:
    """Prisma's URL for the connected database, password included: never log it.

    The session's name and the limits of its waits go with it.
    """
    info, given = connection.info, connection.info.get_parameters()
    host, socket = info.host, ""
    if host.startswith("/"):
        host, socket = "localhost", host
    lock_timeout = limits.lock_timeout if script.is_atomic else 0
    options = {
        "statement_timeout": int(limits.statement_timeout * 1000) if script.is_atomic else 0,
        "lock_timeout": int(lock_timeout * 1000),
    }
    if info.server_version >= 140000:
        options["client_connection_check_interval"] = 1000
    parameters = {
        "host": socket,
        "schema": "" if schema == "public" else schema,
        "application_name": _cli_session(connection),
        "options": " ".join(f"-c {name}={value}" for name, value in options.items()),
        "sslmode": "require" if given.get("sslmode", "").startswith("verify") else given.get("sslmode", ""),
        "sslaccept": "strict" if given.get("sslmode", "").startswith("verify") else "",
        "sslcert": given.get("sslrootcert", ""),
    }  # fmt: skip
    query = urlencode({name: value for name, value in parameters.items() if value}, quote_via=quote)
    who = f"{quote(info.user, safe='')}:{quote(info.password, safe='')}"
    return f"postgresql://{who}@{host}:{info.port}/{quote(info.dbname, safe='')}?{query}"


def _as_split(script: MigrationScript) -> MigrationScript:
    """As a version takes it that splits scripts: atomic by its own BEGIN, or by being one statement."""
    first = script.statements[:1]
    is_wrapped = bool(first) and control_of(first[0]) is Control.BEGIN
    is_one = len(script.statements) <= 1
    return replace(script, is_atomic=script.is_atomic and (is_wrapped or is_one))


def _cli_session(connection: psycopg.Connection) -> str:
    own = connection.info.get_parameters().get("application_name", "opsconsole:apply")
    return f"{own}{CLI_SUFFIX}"


def _pinned_version(root: Path) -> str:
    """What the project's lock file pins; "" without one."""
    for name, pattern in LOCK_FILES.items():
        try:
            found = re.search(pattern, (root / name).read_text(), re.MULTILINE)
        except OSError:
            continue
        if found:
            return found[1]
    return ""


def _reason(recorded: str | None) -> str:
    """The server's words in what Prisma recorded, with the SQLSTATE where it gives one."""
    logs = recorded or ""
    code = re.search(r"[Ee]rror code: (\w{5})", logs)
    said = re.search(r"^(?:db error: )?ERROR: (.+)$", logs, re.MULTILINE)
    # Through a driver adapter: a heading, the words, and where in Prisma it was.
    words = [x for x in logs.splitlines() if x.strip() and not re.match(r"\s|external", x, re.I)]
    text = said[1] if said else (words or ["the CLI recorded no reason; see what it printed"])[0]
    return f"{code[1]} {text}" if code and code[1] not in text else text
