"""Verbs on schema changes."""

from __future__ import annotations

import argparse
import uuid
from typing import Any

from django.utils.timezone import now

from migrations_app.reading.drift import drift_of
from migrations_app.reading.readings import reading_of
from migrations_app.services.applications import allow_folder
from migrations_app.services.doctor import request_resolution
from migrations_app.services.drift import request_check
from migrations_app.services.migrations import (
    CHECKLIST,
    complete_checklist,
    current_plan,
    request_migrate,
    request_observation,
)
from opsconsole.access.permissions import authorize
from opsconsole.cli import DONE, Call, Verb, takes, wait_for
from opsconsole.environments.cli import target_of
from opsconsole.environments.models import Target
from opsconsole.exceptions import Refused
from opsconsole.runs.cli import started, starts


def list_pending(call: Call) -> int:
    state = _fresh_state(target_of(call))
    if state.error:
        raise Refused(state.error)
    reading = reading_of(state)
    rows = [m for m in reading.migrations if m.state.is_pending]
    lines = [m.name for m in rows] or ["nothing is pending"]
    call.print(
        [m.model_dump(mode="json", exclude_unset=True) for m in rows],
        lines + [f"refused: {text}" for text in reading.refusals],
    )
    return DONE


def list_drift(call: Call) -> int:
    target = target_of(call)
    asked = now()
    request_check(target)
    wait_for(
        lambda: target.schema_readings.filter(last_read_at__gt=asked).first(),
        otherwise="the schema was not read: is a run changing it?",
    )
    drift = drift_of(target)
    changes = drift.changes if drift else []
    rows = [{"sign": c.sign, "name": c.name, "lines": c.lines} for c in changes]
    log = drift.log if drift else []
    lines = [f"{c.sign} {c.name}" for c in changes] or ["no drift"]
    lines += [
        "{at}  {role} ({client}) with {application!r}: {command} {object}".format_map(entry)
        for entry in log
    ]
    call.print({"changes": rows, "log": log}, lines)
    return DONE


def migrate(call: Call) -> int:
    target, actor = target_of(call), call.actor()
    authorize(actor, "run.start", target.environment)
    _fresh_state(target)
    plan, _state = current_plan(target)
    note = f"confirmed on the command line by {actor}"
    ticked = {key: note for key, _text in CHECKLIST} if call.options.checked else {}
    run = request_migrate(
        actor=actor,
        target=target,
        plan_hash=plan.hash,
        idempotency_key=uuid.uuid4().hex,
        reason=call.options.reason,
        typed_name=call.options.confirm,
        checklist=complete_checklist(target, plan.names, ticked),
    )
    return started(call, run)


def resolve(call: Call) -> int:
    target = target_of(call)
    run = request_resolution(
        actor=call.actor(),
        target=target,
        name=call.options.migration,
        mark=call.options.mark,
        reason=call.options.reason,
        idempotency_key=uuid.uuid4().hex,
    )
    return started(call, run)


def _fresh_state(target: Target) -> Any:
    """Ask a worker to read the target, and wait for what it saw."""
    asked = now()
    request_observation(target)

    def seen() -> Any:
        state = target.latest_state
        return state if state and state.observed_at > asked else None

    return wait_for(seen)


def _migrate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--confirm", default="", help="the name of a protected environment")
    parser.add_argument(
        "--checked",
        action="store_true",
        help="the pre-deployment checklist of a protected environment is done",
    )


def _mark_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mark", choices=["rolled_back", "applied", "finish"], required=True)


def allow(call: Call) -> int:
    folder = allow_folder(actor=call.actor(), folder=call.options.folder)
    call.print({"folder": str(folder)}, [f"migrations may lie below {folder}"])
    return DONE


VERBS = [
    Verb("allow-folder", "let migrations lie below a folder here", allow, takes("folder")),
    Verb("pending", "read what is pending", list_pending, takes("environment")),
    Verb("drift", "how the schema differs from what is expected", list_drift, takes("environment")),
    Verb("migrate", "apply what is pending", migrate, starts("environment", more=_migrate_arguments)),
    Verb("resolve", "mark or finish a failed migration", resolve,
         starts("environment", "migration", more=_mark_arguments)),
]  # fmt: skip
