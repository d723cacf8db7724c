"""Migrations of public applications, applied natively and by the real CLI: the same database.

One application's migrations come with a package of the test requirements. More folders can be
named: OPSCONSOLE_TEST_APPLICATIONS=/a/prisma/migrations:/b/prisma/migrations.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.migrations_app.test_prisma_cli import (
    apply_all,
    dump_schema,
    project,  # noqa: F401
    run_prisma,
)
from tests.servers import postgres_15

pytestmark = [
    pytest.mark.needs_prisma,
    # It has the extensions that applications use.
    pytest.mark.needs_postgres15,
    pytest.mark.timeout(600),
]
HISTORY = """
SELECT migration_name, checksum, applied_steps_count, finished_at IS NOT NULL,
       rolled_back_at IS NULL, coalesce(logs, '')
  FROM _prisma_migrations ORDER BY started_at, migration_name
"""


def folders() -> list[Path]:
    found = importlib.util.find_spec("litellm_proxy_extras")
    packaged = [
        Path(place) / "migrations" for place in (found and found.submodule_search_locations) or ()
    ]
    named = os.environ.get("OPSCONSOLE_TEST_APPLICATIONS", "")
    return [*packaged, *(Path(place) for place in named.split(":") if place)]


@pytest.fixture
def pair() -> Iterator[list[str]]:
    """Addresses of two empty databases, each of a role of its name."""
    names = [f"app{uuid.uuid4().hex[:8]}" for _way in range(2)]
    with postgres_15() as server:
        with psycopg.connect(server.dsn, autocommit=True) as cluster:
            for name in names:
                cluster.execute(f"CREATE ROLE {name} LOGIN")
                cluster.execute(f"CREATE DATABASE {name} OWNER {name}")
        yield [
            f"postgresql://{name}@/{name}?host={server.folder}&port={server.port}" for name in names
        ]


def history(dsn: str) -> list[tuple]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(HISTORY).fetchall()


@pytest.mark.parametrize("folder", folders(), ids=lambda folder: "/".join(folder.parts[-3:]))
def test_both_ways_make_the_same_schema_and_history(project, pair, folder):  # noqa: F811
    migrations = project / "prisma" / "migrations"
    shutil.rmtree(migrations)
    shutil.copytree(folder, migrations)
    ours, theirs = pair

    count = len(apply_all(project, ours, 10_000).read_folder().scripts)
    said = run_prisma(project, theirs, "migrate", "deploy")
    assert "All migrations have been successfully applied" in said, said[-2000:]

    assert dump_schema(ours) == dump_schema(theirs)
    assert history(ours) == history(theirs)
    assert len(history(ours)) == count
    for dsn in (ours, theirs):
        assert "Database schema is up to date!" in run_prisma(project, dsn, "migrate", "status")
    print(f"{count} migrations, {len(dump_schema(ours)):,} lines of pg_dump -s: equal")
