"""System checks of the work list: nothing is put on it, or lies on it, that nobody does."""

from __future__ import annotations

from typing import Any

from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import connections

from opsconsole.work.models import WorkItem
from opsconsole.work.registry import WORK, WORK_KEYS


@register()
def check_work_keys(**_options: Any) -> list[CheckMessage]:
    """Every key that a service puts on the list has a registered Work."""
    return [
        Error(
            f"{key} is put on the work list, and no Work of that key is registered.",
            id="opsconsole.E001",
        )
        for key in sorted(WORK_KEYS - WORK.keys())
    ]


@register(Tags.database)
def check_work_rows(**options: Any) -> list[CheckMessage]:
    """Every row that is to be done is of a kind that this version does."""
    if "default" not in (options.get("databases") or []):
        return []
    table = WorkItem._meta.db_table
    if table not in connections["default"].introspection.table_names():
        return []
    unknown = WorkItem.objects.pending().exclude(work__in=list(WORK)).order_by("work")
    return [
        Warning(
            f"Work of the kind {key} is waiting, and this version does not know it.",
            hint="It is kept, and shown as late on the home page.",
            id="opsconsole.W001",
        )
        for key in unknown.values_list("work", flat=True).distinct()
    ]
