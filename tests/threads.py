"""Acts of several people in the same moment, each on a connection of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable

from django.db import connection


def at_once(*acts: Callable[[], object]) -> list[Exception]:
    """Do the acts in threads that begin together; returns what was raised by those that failed."""
    gate, failed = threading.Barrier(len(acts)), []

    def do(act: Callable[[], object]) -> None:
        connection.ensure_connection()
        gate.wait()
        try:
            act()
        except Exception as error:  # Whoever asked judges it.
            failed.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=do, args=[act]) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failed
