"""What the backups put on the work list, and how a worker does it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from django.utils.translation import gettext_lazy as _

from backups_app.models import ReplacedDatabase, Storage
from backups_app.runs.swapping import drop_replaced_database
from backups_app.services import restores, storages
from opsconsole.work.registry import Arguments, Work, register_work


def register() -> None:
    register_work(Work(restores.DROP, _("Drop a replaced database"), drop_replaced))
    register_work(Work(storages.TEST, _("Test a storage"), test_storage))


def drop_replaced(arguments: Arguments) -> Callable[[], object]:
    replaced = ReplacedDatabase.objects.select_related(
        "target__environment__application", "dropped_by"
    ).get(pk=arguments["replaced"])
    drop_replaced_database(replaced)
    return partial(restores.record_drop, replaced)


def test_storage(arguments: Arguments) -> Callable[[], object]:
    storage = Storage.objects.get(pk=arguments["storage"])
    # A test that was asked for before an upgrade names no object.
    key = str(arguments.get("object") or storages.new_test_object())
    return partial(storages.record_test, storage, storages.try_storage(storage, key))
