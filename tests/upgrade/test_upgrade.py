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
from urllib.parse import urlsplit

import psycopg
import pytest
from django.conf import settings

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent
DUMP = FOLDER / "console_0.1.sql.gz"
NAME = "upgrade_of_0_1"
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


@pytest.fixture(scope="module")
def report(database: str) -> dict[str, list[str]]:
    """What `drive.py` found wrong, by what it looked at."""
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
        [sys.executable, "-m", "tests.upgrade.drive"],
        env=environment, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout)
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
