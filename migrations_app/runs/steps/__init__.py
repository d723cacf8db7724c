"""The steps of the operations on migrations."""

from migrations_app.runs.steps.migrate import (
    Migrate,
    Preflight,
    Rollback,
    Snapshot,
    Verify,
    unknown_ways,
)
from migrations_app.runs.steps.repairs import AdoptDrift, EndSession, FinishRest, ResolveHistory

__all__ = [
    "AdoptDrift",
    "EndSession",
    "FinishRest",
    "Migrate",
    "Preflight",
    "ResolveHistory",
    "Rollback",
    "Snapshot",
    "Verify",
    "unknown_ways",
]
