"""Every engine against the contract and its real tool."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from migrations_app.engines import ENGINES
from opsconsole.project.demo import SOURCE
from tests.conftest import PASSWORD
from tests.contracts.engine import EngineContract, NativeContract, OwnToolContract
from tests.migrations_app.test_prisma_cli import HERE, NO_DOWNLOADS, run_prisma
from tests.toolbox import dbmate


class PrismaFiles(EngineContract):
    """How Prisma's files are written and its CLI is run."""

    keeps_failures = True
    folder_path = "prisma/migrations"

    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        made = tmp_path / self.folder_path
        made.mkdir(parents=True)
        shutil.copy(SOURCE / "prisma" / "schema.prisma", made.parent)
        for name in ("prisma.config.ts", "package.json"):
            shutil.copy(HERE / name, tmp_path)
        (tmp_path / "node_modules").symlink_to(HERE / "node_modules")
        return made

    def write(self, folder: Path, name: str, sql: str, *, is_atomic: bool = True) -> Path:
        file = folder / name / "migration.sql"
        file.parent.mkdir()
        file.write_text(sql + "\n")
        return file

    def deploy(self, folder: Path, dsn: str) -> str:
        return run_prisma(folder.parents[1], dsn, "migrate", "deploy")

    def status(self, folder: Path, dsn: str) -> str:
        return run_prisma(folder.parents[1], dsn, "migrate", "status")

    def is_up_to_date(self, printed: str) -> bool:
        return "Database schema is up to date!" in printed

    def pending_in(self, printed: str) -> int:
        _, _, listed = printed.partition("not yet been applied:")
        return sum(line[:14].isdigit() for line in listed.splitlines())


@pytest.mark.needs_prisma
class TestPrisma(PrismaFiles, NativeContract):
    name = "prisma"


@pytest.mark.needs_prisma
class TestPrismaCli(PrismaFiles, OwnToolContract):
    name = "prisma-cli"

    @pytest.fixture(autouse=True)
    def _without_downloads(self, monkeypatch) -> None:
        for name, value in NO_DOWNLOADS.items():
            monkeypatch.setenv(name, value)

    def hide_tool(self, project: Path) -> None:
        (project / "node_modules").unlink()

    def pin(self, project: Path, version: str) -> None:
        packages = {"node_modules/prisma": {"version": version}}
        (project / "package-lock.json").write_text(json.dumps({"packages": packages}, indent=2))


@pytest.mark.parametrize(
    ("version", "sql", "is_atomic"),
    [
        ("6.19.3", "SELECT 1; SELECT 2;", True),
        ("7.3.0", "SELECT 1; SELECT 2;", True),
        ("7.4.0", "SELECT 1; SELECT 2;", False),
        ("7.10.1", "SELECT 1; SELECT 2;", False),
        ("7.4.0", "BEGIN; SELECT 1; SELECT 2; COMMIT;", True),
        ("7.4.0", "SELECT 1;", True),
        ("7.4.0", "CREATE INDEX CONCURRENTLY i ON t (n);", False),
    ],
)
def test_version_that_splits_scripts_makes_no_atomic_ones(tmp_path, version, sql, is_atomic):
    package = tmp_path / "node_modules" / "prisma" / "package.json"
    package.parent.mkdir(parents=True)
    package.write_text(json.dumps({"version": version}))
    file = tmp_path / "prisma" / "migrations" / "1_a" / "migration.sql"
    file.parent.mkdir(parents=True)
    file.write_text(sql)
    (tmp_path / "prisma" / "schema.prisma").write_text("")
    reading = ENGINES["prisma-cli"](file.parents[1]).read_folder()
    assert (reading.problems, reading.scripts[0].is_atomic) == ([], is_atomic)


@pytest.fixture
def cli_project(tmp_path) -> Path:
    """A project with Prisma 6.19.3 and one migration, as far as files say."""
    package = tmp_path / "node_modules" / "prisma" / "package.json"
    package.parent.mkdir(parents=True)
    package.write_text('{"version": "6.19.3"}')
    file = tmp_path / "prisma" / "migrations" / "1_a" / "migration.sql"
    file.parent.mkdir(parents=True)
    file.write_text("SELECT 1;")
    (tmp_path / "prisma" / "schema.prisma").write_text("")
    return tmp_path


def problems_of(project: Path) -> list[str]:
    return ENGINES["prisma-cli"](project / "prisma" / "migrations").read_folder().problems


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pnpm-lock.yaml", "packages:\n\n  prisma@6.1.0(typescript@5):\n"),
        ("yarn.lock", 'prisma@^6.0.0:\n  version "6.1.0"\n'),
        ("bun.lock", '  "prisma": ["prisma@6.1.0", "", {}]\n'),
    ],
)
def test_version_is_pinned_by_any_lock_file(cli_project, name, text):
    assert problems_of(cli_project) == []
    (cli_project / name).write_text(text)
    (problem,) = problems_of(cli_project)
    assert "holds Prisma 6.19.3, and the project pins 6.1.0" in problem
    (cli_project / name).write_text(text.replace("6.1.0", "6.19.3"))
    assert problems_of(cli_project) == []


def test_version_that_keeps_its_history_elsewhere_is_a_problem(cli_project):
    (cli_project / "node_modules/prisma/package.json").write_text('{"version": "8.0.0"}')
    assert problems_of(cli_project) == ["Prisma 8.0.0 is not one of 6 and 7"]


def test_folder_that_the_cli_would_not_read_is_a_problem(cli_project):
    config = cli_project / "prisma.config.ts"
    config.write_text('export default { migrations: { path: "prisma/migrations" } };')
    assert problems_of(cli_project) == []
    config.write_text('export default { migrations: { path: "db/other" } };')
    assert "keeps the migrations in db/other" in problems_of(cli_project)[0]
    config.unlink()
    (cli_project / "prisma" / "schema.prisma").unlink()
    assert "there is no schema beside" in problems_of(cli_project)[0]


@pytest.mark.needs_dbmate
class TestDbmate(NativeContract):
    name = "dbmate"
    keeps_failures = False
    folder_path = "db/migrations"

    def write(self, folder: Path, name: str, sql: str, *, is_atomic: bool = True) -> Path:
        file = folder / f"{name}.sql"
        options = "" if is_atomic else " transaction:false"
        file.write_text(f"-- migrate:up{options}\n{sql}\n\n-- migrate:down\nDROP TABLE undone;\n")
        return file

    def run(self, folder: Path, dsn: str, *words: str) -> str:
        name = dsn.split("@/")[1].split("?")[0]
        address = f"postgres://{name}:{PASSWORD}@/{name}?host={dsn.split('host=')[1]}"
        done = subprocess.run(
            [dbmate(), "--migrations-dir", folder, "--no-dump-schema", *words],
            capture_output=True,
            text=True,
            timeout=240,
            env=os.environ | {"DATABASE_URL": f"{address}&sslmode=disable"},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def deploy(self, folder: Path, dsn: str) -> str:
        return self.run(folder, dsn, "migrate")

    def status(self, folder: Path, dsn: str) -> str:
        return self.run(folder, dsn, "status")

    def is_up_to_date(self, printed: str) -> bool:
        return self.pending_in(printed) == 0

    def pending_in(self, printed: str) -> int:
        return int(printed.rpartition("Pending: ")[2])

    def test_applied_file_that_dbmate_would_reject_stops_nothing(
        self, engine, folder, dsn, connection
    ):
        file = self.write(folder, "20250101000000_a", "CREATE TABLE a (id int);")
        self.apply(engine, connection, "20250101000000_a")
        file.write_text("-- migrate:up\nCREATE TABLE a (id int);\n")
        self.write(folder, "20250202000000_b", "CREATE TABLE b (id int);")
        assert engine.read_folder().problems == []
        self.apply(engine, connection, "20250202000000_b")
        assert self.is_up_to_date(self.status(folder, dsn))
        assert set(self.states(engine, connection).values()) == {"applied"}

    def test_two_files_of_one_version_are_a_problem(self, engine, folder, dsn):
        """dbmate takes the second for applied, once the first is."""
        self.write(folder, "20250101000000_a", "CREATE TABLE a (id int);")
        self.deploy(folder, dsn)
        self.write(folder, "20250101000000_b", "CREATE TABLE b (id int);")
        assert self.is_up_to_date(self.status(folder, dsn))
        assert engine.read_folder().problems == [
            "20250101000000_b.sql has the version of 20250101000000_a.sql, and dbmate applies only "
            "one of the two: give it a version of its own"
        ]

    def test_down_block_is_neither_run_nor_linted(self, engine, folder):
        self.write(folder, "20250101000000_a", "CREATE TABLE a (id int);")
        script = engine.read_folder().scripts[0]
        assert [s.text for s in script.statements] == ["CREATE TABLE a (id int)"]
        assert "undone" in script.sql
        assert "undone" not in script.text

    def test_concurrent_index_in_a_transaction_is_refused_with_the_way_out(self, engine, folder):
        self.write(folder, "20250101000000_a", "CREATE INDEX CONCURRENTLY i ON t (n);")
        refusal = engine.read_folder().scripts[0].refusal
        assert refusal == (
            "line 2 cannot run inside a transaction: write `-- migrate:up transaction:false`"
        )


def test_every_engine_has_a_suite_here():
    suites = [each for each in globals().values() if isinstance(each, type)]
    named = {s.name for s in suites if issubclass(s, EngineContract) and hasattr(s, "name")}
    assert named == set(ENGINES)
