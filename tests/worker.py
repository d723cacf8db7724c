"""What only workers do, done in the tests' process, which is a worker for as long as that takes.

Everything else in a test is the web process, which opens nothing that is sealed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from backups_app import copies
from backups_app.runs import restore_check, swapping
from backups_app.services import recovery, storages
from migrations_app.reading import drift, observation
from opsconsole.environments import key_rotation, secrets
from opsconsole.health import services as health
from opsconsole.runs import executor, resolver
from opsconsole.work import worker

_counting = threading.Lock()
_at_work = 0


@contextmanager
def as_worker() -> Iterator[None]:
    """This process is a worker until the last of those that asked for it is done."""
    _count(+1)
    try:
        yield
    finally:
        _count(-1)


def _count(more: int) -> None:
    global _at_work
    with _counting:
        _at_work += more
        secrets._may_open = _at_work > 0


backup_identities = as_worker()(secrets.backup_identities)
check_copy = as_worker()(copies.check_copy)
check_drift = as_worker()(drift.check_drift)
check_environment = as_worker()(health.check_environment)
check_restore = as_worker()(restore_check.check_restore)
check_target = as_worker()(health.check_target)
do_work = as_worker()(worker.do_work)
drop_replaced_database = as_worker()(swapping.drop_replaced_database)
execute_run = as_worker()(executor.execute_run)
observe_target = as_worker()(observation.observe_target)
# The command that prints it opens the key as a worker does.
recovery_kit = as_worker()(recovery.recovery_kit)
rotate_keys = as_worker()(key_rotation.rotate_keys)
resolve_dsn = as_worker()(secrets.resolve_dsn)
resolve_lost_run = as_worker()(resolver.resolve_lost_run)
resolve_scratch_dsn = as_worker()(secrets.resolve_scratch_dsn)
try_storage = as_worker()(storages.try_storage)
unseal = as_worker()(secrets.unseal)
