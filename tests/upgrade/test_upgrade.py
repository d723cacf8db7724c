"""A console's database of 0.1, with rows in every state, upgraded to the code of today.

How the dump and the addresses were made, and what to do when a test fails, is in README.md.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from django.conf import settings

from opsconsole.embedded.postgres import set_role
from tests.conftest import PASSWORD, dsn_for, superuser

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent
DUMP = FOLDER / "console_0.1.sql.gz"
NAME = "upgrade_of_0_1"
TARGET = "upgrade_target"
# The dump's secrets are sealed with it.
KEY = "dGhlIGtleSBvZiB0aGUgdXBncmFkZSB0ZXN0IG9ubHk="


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The address of a fresh database that holds the dump."""
    base = settings.DATABASE_URL
    url = urlsplit(base)._replace(path=f"/{NAME}").geturl()
    with psycopg.connect(base, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)")
        connection.execute(f"CREATE DATABASE {NAME}")
        with psycopg.connect(url) as restored:
            restored.execute(gzip.decompress(DUMP.read_bytes()))
        yield url
        connection.execute(f"DROP DATABASE {NAME} WITH (FORCE)")


def answer_of(module: str, *arguments: str, database: str, **more: str) -> Any:
    """What a module of this folder prints, as JSON, with `database` as its console's own."""
    environment = os.environ | {
        "DATABASE_URL": database,
        # A queue of its own: nobody is to do what these pages ask for.
        "REDIS_URL": f"{settings.REDIS_URL}?virtual_host=9",
        "OPSCONSOLE_ENCRYPTION_KEYS": KEY,
        "OPSCONSOLE_HTTPS": "false",
        "ALLOWED_HOSTS": "testserver",
        "DJANGO_SETTINGS_MODULE": settings.SETTINGS_MODULE,
        "LOG_LEVEL": "ERROR",
    }
    done = subprocess.run(
        [sys.executable, "-m", f"tests.upgrade.{module}", *arguments],
        env=environment | more,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def report(database: str) -> dict[str, list[str]]:
    """What `drive.py` found wrong, by what it looked at."""
    found: dict[str, list[str]] = answer_of("drive", database=database)
    return found


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    """The address of a small database for runs."""
    with superuser() as connection:
        set_role(connection, TARGET, PASSWORD, "LOGIN CREATEDB")
        connection.execute(f"CREATE DATABASE {TARGET} OWNER {TARGET}")
        try:
            with psycopg.connect(dsn_for(TARGET, TARGET)) as made:
                made.execute("CREATE TABLE paid AS SELECT n FROM generate_series(1, 100) n")
            yield dsn_for(TARGET, TARGET)
        finally:
            connection.execute(f"DROP DATABASE {TARGET} WITH (FORCE)")
            connection.execute(f"DROP ROLE {TARGET}")


@pytest.fixture(scope="module")
def ends(
    report: object, database: str, target: str, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """How `work.py` saw each run end that 0.1 left queued or under way."""
    backups, migrations = (tmp_path_factory.mktemp(name) for name in ("backups", "migrations"))
    (backups / "incoming").mkdir()
    found: list[dict[str, Any]] = answer_of(
        "work",
        str(migrations),
        database=database,
        NOWHERE=target,
        OPSCONSOLE_TARGET_VARIABLES="NOWHERE",
        OPSCONSOLE_BACKUPS=str(backups),
        OPSCONSOLE_MIGRATIONS_ROOTS=str(migrations),
    )
    return found


def nothing(found: list[str]) -> bool:
    """Show all that was found: an assertion on a list shows only its beginning."""
    print(*found, sep="\n")
    return not found


def test_models_have_all_their_migrations(report):
    assert nothing(report["missing migrations"])


def test_every_row_is_still_there_with_its_values(report):
    assert nothing(report["rows"])


def test_every_row_can_be_loaded_and_shown(report):
    assert nothing(report["objects"])


def test_every_secret_still_opens(report):
    assert nothing(report["secrets"])


def test_every_page_answers_for_every_object(report):
    assert nothing(report["pages"])


def test_every_address_that_a_page_linked_to_still_leads_to_a_page(report):
    assert nothing(report["addresses"])


def test_every_text_of_a_page_is_marked_for_translation_or_data(report):
    assert nothing(report["texts"])


def by_kind(ends: list[dict[str, Any]], before: str, what: str) -> dict[str, Any]:
    return {end["kind"]: end[what] for end in ends if end["before"] == before}


def test_queued_backup_is_taken_once_and_what_cannot_be_done_any_more_says_why(ends):
    assert by_kind(ends, "queued", "status") == {
        "backup": "succeeded", "import": "failed", "migrate": "failed", "prune": "failed",
        "rehearse": "failed", "restore": "failed", "verify": "failed",
    }  # fmt: skip
    assert by_kind(ends, "queued", "starts")["backup"] == 1
    assert all(by_kind(ends, "queued", "summary").values())


@pytest.mark.parametrize("before", ["running", "cancelling", "lost"])
def test_run_under_way_ends_as_the_database_says_and_is_not_run_again(ends, before):
    assert by_kind(ends, before, "status") == {
        "backup": "failed", "import": "failed", "migrate": "failed", "prune": "failed",
        "rehearse": "needs_attention", "restore": "failed", "verify": "failed",
    }  # fmt: skip
    assert set(by_kind(ends, before, "starts").values()) == {0}
