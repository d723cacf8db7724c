"""What every engine keeps, whatever its tool: a suite that a test class inherits.

The class says how its tool's files are written, and how the real tool is run.
"""

from __future__ import annotations

import re
import shutil
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import psycopg
import pytest

from migrations_app.engines import ENGINES, Engine, Limits, ScriptFailed, ScriptUnknown
from opsconsole.exceptions import AdapterError, Cancelled
from tests.conftest import PASSWORD

LIMITS = Limits(lock_timeout=0.3, lock_patience=5, tool_lock_wait=0.3)


@contextmanager
def cancelling(dsn: str, query: str) -> Iterator[None]:
    """Cancel the first statement of another session that is like `query`, once it runs."""
    found = (
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE %s"
        " AND state = 'active' AND datname = current_database() AND pid <> pg_backend_pid()"
    )

    def cancel() -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            deadline = time.monotonic() + 30
            while not connection.execute(found, [f"%{query}"]).fetchone():
                assert time.monotonic() < deadline
                time.sleep(0.1)

    thread = threading.Thread(target=cancel)
    thread.start()
    yield
    thread.join()


class EngineContract(ABC):
    """Fixtures and helpers of a tool, then the tests."""

    name: ClassVar[str]
    # Whether a failure is in the tool's history until it is marked.
    keeps_failures: ClassVar[bool]
    folder_path: ClassVar[str]
    # Two migrations as the tool would name them, in its order.
    first: ClassVar[str] = "20250101000000_a"
    second: ClassVar[str] = "20250202000000_b"

    @abstractmethod
    def write(self, folder: Path, name: str, sql: str, *, is_atomic: bool = True) -> Path:
        """Write a migration as the tool's users do; returns its file."""

    @abstractmethod
    def deploy(self, folder: Path, dsn: str) -> str:
        """Apply what is pending with the real tool; returns what it printed."""

    @abstractmethod
    def status(self, folder: Path, dsn: str) -> str:
        """What the real tool's status command prints."""

    @abstractmethod
    def is_up_to_date(self, printed: str) -> bool:
        """Whether that says that nothing is pending."""

    @abstractmethod
    def pending_in(self, printed: str) -> int:
        """How many migrations that says are not yet applied."""

    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        made = tmp_path / self.folder_path
        made.mkdir(parents=True)
        return made

    @pytest.fixture
    def engine(self, folder) -> Engine:
        return ENGINES[self.name](folder)

    @pytest.fixture
    def dsn(self, database) -> str:
        return database()

    @pytest.fixture
    def connection(self, dsn):
        with psycopg.connect(dsn, autocommit=True) as open_one:
            yield open_one

    def states(self, engine: Engine, connection: psycopg.Connection) -> dict[str, str]:
        reading = engine.read_folder()
        assert reading.problems == []
        rows = engine.read_history(connection)
        return {s.name: s.state for s in engine.compare(reading.scripts, rows, is_locked=False)}

    def apply(
        self,
        engine: Engine,
        connection: psycopg.Connection,
        name: str,
        log=None,
        sleep=None,
        limits=LIMITS,
    ):
        engine.ensure_history(connection)
        script = {s.name: s for s in engine.read_folder().scripts}[name]
        return engine.apply(
            connection, script, limits, log or (lambda *_: None), sleep or (lambda _seconds: None)
        )

    def fail(
        self, engine: Engine, connection: psycopg.Connection, name: str, sleep=None
    ) -> ScriptFailed:
        with pytest.raises(ScriptFailed) as failed:
            self.apply(engine, connection, name, sleep=sleep)
        return failed.value

    # -- reading

    def test_empty_database_has_no_history_and_everything_is_pending(
        self, engine, folder, connection
    ):
        self.write(folder, self.first, "CREATE TABLE a (id int);")
        assert engine.read_history(connection) == []
        assert self.states(engine, connection) == {self.first: "pending"}

    def test_missing_folder_is_an_error_that_names_it(self, engine, folder):
        shutil.rmtree(folder)
        with pytest.raises(AdapterError, match=f"cannot read {folder}"):
            engine.read_folder()

    def test_scripts_come_in_the_order_of_their_names_with_statements_at_their_lines(
        self, engine, folder
    ):
        self.write(folder, self.second, "\nCREATE TABLE b (id int);\nDROP TABLE b;")
        file = self.write(folder, self.first, "CREATE TABLE a (id int);")
        scripts = engine.read_folder().scripts
        assert [s.name for s in scripts] == [self.first, self.second]
        lines = (scripts[1].sql).splitlines()
        assert [lines[s.line - 1] for s in scripts[1].statements] == [
            "CREATE TABLE b (id int);",
            "DROP TABLE b;",
        ]
        assert scripts[0].sql == file.read_text()

    def test_earlier_name_than_an_applied_one_is_out_of_order(self, engine, folder, connection):
        self.write(folder, self.second, "CREATE TABLE b (id int);")
        self.apply(engine, connection, self.second)
        self.write(folder, self.first, "CREATE TABLE a (id int);")
        assert self.states(engine, connection) == {
            self.first: "out_of_order",
            self.second: "applied",
        }

    def test_applied_migration_without_its_file_is_missing_locally(
        self, engine, folder, connection
    ):
        file = self.write(folder, self.first, "CREATE TABLE a (id int);")
        self.apply(engine, connection, self.first)
        shutil.rmtree(file.parent) if file.parent != folder else file.unlink()
        assert list(self.states(engine, connection).values()) == ["missing_locally"]

    # -- applying

    def test_applied_script_is_in_the_history_with_its_change(self, engine, folder, connection):
        self.write(folder, self.first, "CREATE TABLE a AS SELECT 1 AS id;")
        outcome = self.apply(engine, connection, self.first)
        assert [s.kind for s in outcome.landed] == ["CreateTableAs"]
        assert connection.execute("SELECT id FROM a").fetchone() == (1,)
        assert self.states(engine, connection) == {self.first: "applied"}

    def test_atomic_script_that_fails_half_way_leaves_nothing(self, engine, folder, connection):
        self.write(folder, self.first, "CREATE TABLE a (id int);\nALTER TABLE no ADD x int;")
        failure = self.fail(engine, connection, self.first)
        assert failure.outcome.landed == []
        assert re.search(r'relation "no" does not exist|No such table: no', failure.reason)
        assert connection.execute("SELECT to_regclass('a')").fetchone() == (None,)
        expected = "failed" if self.keeps_failures else "pending"
        assert self.states(engine, connection) == {self.first: expected}
        engine.mark_rolled_back(connection, self.first)
        assert self.states(engine, connection) == {self.first: "pending"}

    def test_script_that_is_not_atomic_names_exactly_what_landed(self, engine, folder, connection):
        connection.execute("CREATE SCHEMA kept; CREATE TABLE kept.t AS SELECT 1 AS n")
        self.write(
            folder,
            self.first,
            "CREATE INDEX CONCURRENTLY t_n ON kept.t (n);",
            is_atomic=False,
        )
        self.apply(engine, connection, self.first)
        assert connection.execute("SELECT to_regclass('kept.t_n')").fetchone() != (None,)
        assert self.states(engine, connection) == {self.first: "applied"}

    def test_statement_cancelled_on_the_server_leaves_nothing(
        self, engine, folder, connection, dsn
    ):
        self.write(folder, self.first, "CREATE TABLE a (id int);\nSELECT pg_sleep(60);")
        with cancelling(dsn, "SELECT pg_sleep(60)%"):
            failure = self.fail(engine, connection, self.first)
        assert failure.outcome.landed == []
        assert "canceling statement due to user request" in failure.reason
        assert connection.execute("SELECT to_regclass('a')").fetchone() == (None,)

    def test_lock_that_is_not_free_is_tried_again(self, engine, folder, connection, dsn):
        connection.execute("CREATE SCHEMA kept; CREATE TABLE kept.t (n int)")
        self.write(folder, self.first, "ALTER TABLE kept.t ADD COLUMN m int;")
        with psycopg.connect(dsn) as other:
            other.execute("LOCK TABLE kept.t")
            pauses: list[float] = []

            def sleep(seconds: float) -> None:
                if seconds:
                    pauses.append(seconds)
                    other.commit()

            # On a busy machine the tool alone takes seconds to start.
            patient = replace(LIMITS, lock_patience=120)
            self.apply(engine, connection, self.first, sleep=sleep, limits=patient)
        assert len(pauses) == 1
        assert self.states(engine, connection) == {self.first: "applied"}

    def test_marked_applied_is_not_run_and_not_marked_twice(self, engine, folder, connection):
        self.write(folder, self.first, "CREATE TABLE a (id int);")
        engine.ensure_history(connection)
        script = engine.read_folder().scripts[0]
        engine.mark_applied(connection, script)
        assert connection.execute("SELECT to_regclass('a')").fetchone() == (None,)
        assert self.states(engine, connection) == {self.first: "applied"}
        with pytest.raises(AdapterError, match="already applied"):
            engine.mark_applied(connection, script)

    # -- beside the real tool

    def test_tool_agrees_with_what_the_engine_wrote(self, engine, folder, connection, dsn):
        self.write(folder, self.first, "CREATE TABLE a (id int);")
        self.apply(engine, connection, self.first)
        assert self.is_up_to_date(self.status(folder, dsn))
        self.write(folder, self.second, "CREATE TABLE b (id int);")
        self.deploy(folder, dsn)
        assert self.states(engine, connection) == {
            self.first: "applied",
            self.second: "applied",
        }

    def test_engine_goes_on_after_the_tool(self, engine, folder, connection, dsn):
        self.write(folder, self.first, "CREATE TABLE a (id int);")
        self.deploy(folder, dsn)
        assert self.states(engine, connection) == {self.first: "applied"}
        self.write(folder, self.second, "CREATE TABLE b (id int);")
        self.apply(engine, connection, self.second)
        assert self.is_up_to_date(self.status(folder, dsn))

    def test_verdict_is_what_the_tool_says(self, engine, folder, connection, dsn):
        self.write(folder, self.first, "CREATE TABLE a (id int);")
        self.apply(engine, connection, self.first)
        self.write(folder, self.second, "CREATE TABLE b (id int);")
        rows = engine.read_history(connection)
        states = engine.compare(engine.read_folder().scripts, rows, is_locked=False)
        verdict = engine.tool_verdict(states)
        printed = self.status(folder, dsn)
        assert not self.is_up_to_date(printed)
        assert self.pending_in(printed) == 1
        assert verdict.says.endswith(": 1")
        assert verdict.is_silent_on == ()


class NativeContract(EngineContract):
    """What an engine keeps that sends the statements itself."""

    def test_notices_are_logged_with_file_and_line(self, engine, folder, connection):
        self.write(folder, self.first, "DO $$ BEGIN RAISE WARNING 'careful'; END $$;")
        said: list[str] = []
        self.apply(engine, connection, self.first, lambda text, _tone: said.append(text))
        script = engine.read_folder().scripts[0]
        where = f"({script.file} line {script.statements[0].line})"
        assert said == [f"  WARNING 01000: careful {where}"]

    def test_cancel_between_two_tries_names_what_landed(self, engine, folder, connection, dsn):
        connection.execute(
            "CREATE SCHEMA kept; CREATE TABLE kept.t (n int); CREATE TABLE kept.u ()"
        )
        self.write(
            folder,
            self.first,
            "CREATE INDEX CONCURRENTLY t_n ON kept.t (n);\nALTER TABLE kept.u ADD COLUMN m int;",
            is_atomic=False,
        )

        def cancelled(_seconds: float) -> None:
            raise Cancelled("")

        with psycopg.connect(dsn) as other:
            other.execute("LOCK TABLE kept.u IN ROW EXCLUSIVE MODE")
            failure = self.fail(engine, connection, self.first, sleep=cancelled)
        assert [s.kind for s in failure.outcome.landed] == ["Index"]


class OwnToolContract(EngineContract):
    """What an engine keeps that runs its tool. `project` is the folder that the tool lives in."""

    @abstractmethod
    def hide_tool(self, project: Path) -> None:
        """Leave the project without its tool."""

    @abstractmethod
    def pin(self, project: Path, version: str) -> None:
        """Have the project pin that version of its tool."""

    def test_output_is_streamed_without_the_password(self, engine, folder, connection):
        self.write(folder, self.first, "CREATE TABLE a (id int);")
        said: list[str] = []
        self.apply(engine, connection, self.first, lambda text, _tone: said.append(text))
        assert any(self.first in line for line in said)
        assert not any(PASSWORD in line for line in said)

    def test_cancel_ends_the_tool_and_its_sessions(self, engine, folder, connection):
        self.write(folder, self.first, "CREATE TABLE a (id int);\nSELECT pg_sleep(60);")
        began = (
            "SELECT pid FROM pg_stat_activity WHERE query LIKE '%%pg_sleep(60)%%'"
            " AND datname = current_database() AND pid <> pg_backend_pid()"
        )

        def cancelled(_seconds: float) -> None:
            if connection.execute(began).fetchone():
                raise Cancelled("")

        failure = self.fail(engine, connection, self.first, sleep=cancelled)
        assert (failure.reason, failure.outcome.landed) == ("cancelled", [])
        assert connection.execute(began).fetchone() is None
        assert connection.execute("SELECT to_regclass('a')").fetchone() == (None,)

    def test_extent_that_the_catalogue_does_not_show_is_unknown(self, engine, folder, connection):
        connection.execute("CREATE SCHEMA kept; CREATE TABLE kept.t AS SELECT 1 AS n")
        self.write(
            folder,
            self.first,
            "BEGIN;\nUPDATE kept.t SET n = 2;\nCOMMIT;\nALTER TABLE no ADD x int;",
            is_atomic=False,
        )
        with pytest.raises(ScriptUnknown, match=r"migration\.sql line 1: "):
            self.apply(engine, connection, self.first)

    def test_only_the_planned_script_is_applied_in_the_text_that_was_read(
        self, engine, folder, connection
    ):
        file = self.write(folder, self.first, "CREATE TABLE a (id int);")
        engine.ensure_history(connection)
        script = engine.read_folder().scripts[0]
        file.write_text("CREATE TABLE changed (id int);\n")
        self.write(folder, self.second, "CREATE TABLE b (id int);")
        engine.apply(connection, script, LIMITS, lambda *_: None, lambda _seconds: None)
        assert connection.execute(
            "SELECT to_regclass('a')::text, to_regclass('changed'), to_regclass('b')"
        ).fetchone() == ("a", None, None)

    def test_tool_that_is_missing_is_a_problem(self, engine, folder):
        self.hide_tool(folder.parents[1])
        (problem,) = engine.read_folder().problems
        assert "is not installed" in problem

    def test_tool_of_another_version_than_the_pinned_one_is_a_problem(self, engine, folder):
        self.pin(folder.parents[1], "6.0.0")
        (problem,) = engine.read_folder().problems
        assert "the project pins 6.0.0" in problem
