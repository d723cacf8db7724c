"""Verbs on environments."""

from __future__ import annotations

from typing import Any

from opsconsole.cli import DONE, Call, Verb
from opsconsole.environments.models import Target
from opsconsole.environments.visibility import visible_targets
from opsconsole.exceptions import Kind, Refused


def target_of(call: Call) -> Target:
    """The target of `application/environment` of the call. Raises Refused with those there are."""
    path = call.options.environment
    application, _slash, environment = path.partition("/")
    targets = visible_targets(call.actor())
    try:
        return targets.of(application__slug=application, slug=environment)
    except Target.DoesNotExist:
        known = ", ".join(target.environment.path for target in targets)
        raise Refused(
            f"there is no environment {path}; there are: {known or 'none'}", kind=Kind.NOT_FOUND
        ) from None


def list_environments(call: Call) -> int:
    rows = []
    for target in visible_targets(call.actor()):
        environment, state = target.environment, target.latest_state
        known = state is not None and not state.error
        rows.append(
            {
                "environment": environment.path,
                "protected": environment.is_protected,
                "pending": len(state.pending) if known and state else None,
                "applied": len(state.applied) if known and state else None,
                "read_at": state.observed_at if state else None,
                "error": state.error if state else "not read yet",
            }
        )
    call.print(rows, [f"{r['environment']:40} {_pending_text(r)}" for r in rows])
    return DONE


def _pending_text(row: dict[str, Any]) -> str:
    if row["error"]:
        return str(row["error"])
    return f"{row['pending']} pending, {row['applied']} applied"


VERBS = [Verb("environments", "list environments", list_environments)]
