"""The platform's tables."""

from opsconsole.access.models import Membership, RecentGuesses, User
from opsconsole.audit.models import StrangerCount
from opsconsole.environments.models import Application, Draft, Environment, Target, TargetState
from opsconsole.events.models import AuditEvent
from opsconsole.health.models import HealthCheck, HealthResult, HealthRollup
from opsconsole.runs.models import DeletedLogs, LogChunk, Plan, Run, Step
from opsconsole.runs.workers import Worker
from opsconsole.work.models import WorkItem

__all__ = [
    "Application",
    "AuditEvent",
    "DeletedLogs",
    "Draft",
    "Environment",
    "HealthCheck",
    "HealthResult",
    "HealthRollup",
    "LogChunk",
    "Membership",
    "Plan",
    "RecentGuesses",
    "Run",
    "Step",
    "StrangerCount",
    "Target",
    "TargetState",
    "User",
    "WorkItem",
    "Worker",
]
