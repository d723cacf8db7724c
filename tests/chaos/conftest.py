from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.console import Console


@pytest.fixture(scope="session")
def console() -> Iterator[Console]:
    """One running console for the tests of this process."""
    running = Console()
    try:
        running.start()
        with running.superuser() as connection:
            connection.execute("ALTER SYSTEM SET log_statement = 'ddl'")
            # Processes are killed here, machines are not: nothing has to reach the disk.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")
        yield running
    finally:
        running.remove()


@pytest.fixture
def demo(console: Console) -> Console:
    """The console with its demo as on the first start."""
    console.reset()
    return console


@pytest.fixture
def busy(demo: Console) -> Iterator[Console]:
    """The same, while clients read and write staging."""
    with demo.traffic():
        yield demo
