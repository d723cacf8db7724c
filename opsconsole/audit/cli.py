"""Verbs on the audit trail."""

from __future__ import annotations

import argparse

from opsconsole.audit.visibility import visible_events
from opsconsole.cli import DONE, Call, Verb, row_count


def list_events(call: Call) -> int:
    rows = [
        {
            "id": e.pk, "at": e.occurred_at, "who": e.actor_label, "from": e.ip,
            "what": e.action, "outcome": e.outcome, "object": e.object_label,
            "environment": e.environment.path if e.environment else None, "run": e.run_id,
            "reason": e.reason, "details": e.details,
        }
        for e in visible_events(call.actor()).matching()[: call.options.limit]
    ]  # fmt: skip
    call.print(
        rows,
        [
            f"{r['at']:%Y-%m-%d %H:%M:%S} {r['who']:12} {r['what']:24} {r['outcome']:8}"
            f" {r['object']}"
            for r in rows
        ],
    )
    return DONE


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=row_count, default=50)


VERBS = [Verb("audit", "list the audit trail, newest first", list_events, _arguments)]
