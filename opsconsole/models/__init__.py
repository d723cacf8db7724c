"""The platform's tables."""

from opsconsole.models.access import CONSOLE, Console, Membership, Place, User
from opsconsole.models.application import Application, Environment, Target, TargetState
from opsconsole.models.audit import AuditEvent
from opsconsole.models.health import HealthCheck, HealthResult, HealthRollup
from opsconsole.models.run import LogChunk, Plan, Run, Step
from opsconsole.models.work import WorkItem
from opsconsole.models.worker import Worker

__all__ = [
    "CONSOLE",
    "Application",
    "AuditEvent",
    "Console",
    "Environment",
    "HealthCheck",
    "HealthResult",
    "HealthRollup",
    "LogChunk",
    "Membership",
    "Place",
    "Plan",
    "Run",
    "Step",
    "Target",
    "TargetState",
    "User",
    "WorkItem",
    "Worker",
]
