"""The real Prisma CLI agrees with what the engine wrote."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from migrations_app.engines import Limits
from migrations_app.engines.prisma import PrismaEngine
from opsconsole.project.demo import SOURCE
from opsconsole.targets.tools import find_tools
from tests.conftest import PASSWORD
from tests.toolbox import prisma

pytestmark = pytest.mark.needs_prisma
HERE = Path(__file__).parent.parent / "node"
# The CLI runs without its downloaded engines: by the driver adapter of the configuration.
NO_DOWNLOADS = {
    "PRISMA_SCHEMA_ENGINE_BINARY": "/bin/true",
    "PRISMA_QUERY_ENGINE_LIBRARY": "/bin/true",
}


@pytest.fixture
def project(tmp_path) -> Path:
    """The demo's Prisma project with the test's configuration and installed CLI."""
    shutil.copytree(SOURCE / "prisma", tmp_path / "prisma")
    shutil.copy(HERE / "prisma.config.ts", tmp_path)
    shutil.copy(HERE / "package.json", tmp_path)
    (tmp_path / "node_modules").symlink_to(HERE / "node_modules")
    return tmp_path


def url_for_prisma(dsn: str) -> str:
    parts = urlsplit(dsn)
    name = parts.path.lstrip("/")
    return f"postgresql://{name}:{PASSWORD}@localhost/{name}?{parts.query}"


def run_prisma(project: Path, dsn: str, *arguments: str) -> str:
    done = subprocess.run(
        [prisma(), *arguments],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ
        | {
            "DATABASE_URL": url_for_prisma(dsn),
            "CHECKPOINT_DISABLE": "1",
            **NO_DOWNLOADS,
        },
    )
    return done.stdout + done.stderr


def apply_all(project: Path, dsn: str, count: int = 100) -> PrismaEngine:
    engine = PrismaEngine(project / "prisma" / "migrations")
    with psycopg.connect(dsn, autocommit=True) as connection:
        engine.ensure_history(connection)
        for script in engine.read_folder().scripts[:count]:
            engine.apply(connection, script, Limits(), lambda *_: None, lambda _: None)
    return engine


def dump_schema(dsn: str) -> list[str]:
    """`pg_dump -s` sorted, since object order does not matter, without what is made up anew each
    time: the dump's key, and the version of a column whose type was changed (kept by 15.20 and
    newer, and written down by a pg_dump that is older than it)."""
    tools = find_tools()[-1]
    name = urlsplit(dsn).path.lstrip("/")
    text = subprocess.run(
        [tools.pg_dump, "-s", dsn], capture_output=True, text=True, check=True
    ).stdout.replace(name, "OWNER")
    made_up = re.compile(r"\\(un)?restrict|ALTER TABLE .* SET \(pg_attver=\d+\);")
    return sorted(line for line in text.splitlines() if not made_up.match(line))


def test_prisma_says_up_to_date_after_the_engine_applied_everything(project, database):
    dsn = database()
    apply_all(project, dsn)

    assert "Database schema is up to date!" in run_prisma(project, dsn, "migrate", "status")


def test_schema_equals_the_one_that_prisma_deploys(project, database):
    ours, theirs = database(), database()
    apply_all(project, ours)
    said = run_prisma(project, theirs, "migrate", "deploy")
    assert "All migrations have been successfully applied" in said, said

    assert dump_schema(ours) == dump_schema(theirs)


def test_engine_reads_what_prisma_wrote(project, database):
    dsn = database()
    run_prisma(project, dsn, "migrate", "deploy")
    engine = PrismaEngine(project / "prisma" / "migrations")

    with psycopg.connect(dsn) as connection:
        states = engine.compare(
            engine.read_folder().scripts, engine.read_history(connection), is_locked=False
        )
    assert {s.state for s in states} == {"applied"}
    assert len(states) == 13
    assert not any(s.resolved_by_hand for s in states)


def test_prisma_continues_after_the_engine(project, database):
    dsn = database()
    apply_all(project, dsn, 11)

    said = run_prisma(project, dsn, "migrate", "deploy")

    assert "All migrations have been successfully applied" in said, said
    assert "Database schema is up to date!" in run_prisma(project, dsn, "migrate", "status")


def test_file_that_ends_no_transaction_is_refused_and_prisma_loses_it(project, database):
    """The CLI says that it is applied; the row is unfinished and the table is not there."""
    dsn = database()
    apply_all(project, dsn)
    file = project / "prisma" / "migrations" / "20270101000000_open" / "migration.sql"
    file.parent.mkdir()
    file.write_text("BEGIN;\nCREATE TABLE lost (id int);\n")
    engine = PrismaEngine(project / "prisma" / "migrations")
    assert engine.read_folder().scripts[-1].refusal == (
        "line 1 begins a transaction that the file does not end, so Prisma would say that it is "
        "applied and keep nothing of it: end it with COMMIT"
    )

    said = run_prisma(project, dsn, "migrate", "deploy")

    assert "All migrations have been successfully applied" in said, said
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT to_regclass('lost')").fetchone() == (None,)
        assert engine.read_history(connection)[-1].is_unfinished


def test_prisma_refuses_after_the_engine_s_failure_until_marked(project, database):
    dsn = database()
    engine = apply_all(project, dsn)
    broken = project / "prisma" / "migrations" / "20270101000000_broken"
    broken.mkdir()
    (broken / "migration.sql").write_text("ALTER TABLE nowhere ADD COLUMN x int;\n")
    script = engine.read_folder().scripts[-1]
    with psycopg.connect(dsn, autocommit=True) as connection:
        with pytest.raises(Exception, match="line 1"):
            engine.apply(connection, script, Limits(), lambda *_: None, lambda _: None)

        assert "P3009" in run_prisma(project, dsn, "migrate", "deploy")

        engine.mark_rolled_back(connection, script.name)
    (broken / "migration.sql").write_text("ALTER TABLE teams ADD COLUMN x int;\n")
    assert "applied" in run_prisma(project, dsn, "migrate", "deploy")


def test_engine_reads_prisma_s_own_resolve_applied_as_by_hand(project, database):
    dsn = database()
    apply_all(project, dsn, 12)
    name = "20250728104200_index_targets_parent"
    run_prisma(project, dsn, "migrate", "resolve", "--applied", name)
    engine = PrismaEngine(project / "prisma" / "migrations")

    with psycopg.connect(dsn) as connection:
        states = engine.compare(
            engine.read_folder().scripts, engine.read_history(connection), is_locked=False
        )
    assert [(s.name, s.state) for s in states if s.resolved_by_hand] == [(name, "applied")]
