"""Verbs on the work list."""

from __future__ import annotations

from opsconsole.cli import DONE, Call, Verb, takes
from opsconsole.exceptions import Kind, Refused
from opsconsole.web.keys import key_from
from opsconsole.work import services as work
from opsconsole.work.models import WorkItem
from opsconsole.work.registry import WORK


def list_late(call: Call) -> int:
    rows = [_row(item) for item in work.late_work(call.actor())]
    call.print(rows, [_line(row) for row in rows] or ["no work is late"])
    return DONE


def retry(call: Call) -> int:
    item = work.work_of(call.actor(), "console.view").filter(pk=key_from(call.options.item)).first()
    if item is None:
        raise Refused(
            f"there is no work {call.options.item}: `ops late` lists what is late",
            kind=Kind.NOT_FOUND,
        )
    work.try_now(actor=call.actor(), item=item)
    row = _row(item)
    call.print(row, [f"a worker will try it as soon as one is free: {row['title']}"])
    return DONE


def _row(item: WorkItem) -> dict[str, object]:
    known = WORK.get(item.work)
    return {
        "id": item.pk,
        "title": str(known.title) if known else item.work,
        "about": item.about,
        "environment": item.environment.path if item.environment else None,
        "requested_at": item.created_at,
        "attempts": item.attempts,
        "next_try_at": item.due_at,
        "last_error": item.last_error,
    }


def _line(row: dict[str, object]) -> str:
    where = ", ".join(str(row[name]) for name in ("about", "environment") if row[name])
    tries = f"tried {row['attempts']} times" if row["attempts"] != 1 else "tried once"
    error = f": {row['last_error']}" if row["last_error"] else ""
    return f"{row['id']:>6}  {row['title']} ({where or 'console'}), {tries}{error}"


VERBS = [
    Verb("late", "list work that is late", list_late),
    Verb("retry", "try late work now", retry, takes("item")),
]
