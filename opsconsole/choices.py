"""Every status, kind and role: its value, its word, its tone and its icon, in one place."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.utils.translation import gettext_lazy as _


class Shown(models.TextChoices):
    """Choices that also know how they look: `looks` maps value -> (tone, icon)."""

    @classmethod
    def looks(cls) -> dict[str, tuple[str, str]]:
        return {}

    @property
    def tone(self) -> str:
        return self.looks()[self.value][0]

    @property
    def icon(self) -> str:
        return self.looks()[self.value][1]


class Role(models.TextChoices):
    VIEWER = "viewer", _("Viewer")
    OPERATOR = "operator", _("Operator")
    REVIEWER = "reviewer", _("Reviewer")
    ADMIN = "admin", _("Admin")


class RunKind(models.TextChoices):
    MIGRATE = "migrate", _("Migrate")
    BACKUP = "backup", _("Back up")
    RESTORE = "restore", _("Restore")
    VERIFY = "verify", _("Verify")
    REHEARSE = "rehearse", _("Rehearse")
    PRUNE = "prune", _("Prune")
    IMPORT = "import", _("Import")


class RunStatus(Shown):
    AWAITING_APPROVAL = "awaiting_approval", _("Awaiting approval")
    QUEUED = "queued", _("Queued")
    RUNNING = "running", _("Running")
    CANCELLING = "cancelling", _("Cancelling")
    CANCELLED = "cancelled", _("Cancelled")
    LOST = "lost", _("Lost")
    SUCCEEDED = "succeeded", _("Succeeded")
    FAILED = "failed", _("Failed")
    ROLLED_BACK = "rolled_back", _("Rolled back")
    NEEDS_ATTENTION = "needs_attention", _("Needs a decision")
    REJECTED = "rejected", _("Rejected")
    EXPIRED = "expired", _("Expired")

    @classmethod
    def looks(cls) -> dict[str, tuple[str, str]]:
        return {
            cls.AWAITING_APPROVAL: ("info", "circle-help"),
            cls.QUEUED: ("info", "clock"),
            cls.RUNNING: ("info", "loader"),
            cls.CANCELLING: ("warn", "loader"),
            cls.CANCELLED: ("idle", "ban"),
            cls.LOST: ("warn", "circle-help"),
            cls.SUCCEEDED: ("good", "circle-check"),
            cls.FAILED: ("bad", "circle-x"),
            cls.ROLLED_BACK: ("warn", "undo-2"),
            cls.NEEDS_ATTENTION: ("warn", "triangle-alert"),
            cls.REJECTED: ("idle", "ban"),
            cls.EXPIRED: ("idle", "clock"),
        }

    @classmethod
    def holding(cls) -> list[RunStatus]:
        """Statuses in which a run that changes a target keeps others out."""
        return [cls.QUEUED, cls.RUNNING, cls.CANCELLING, cls.LOST, cls.NEEDS_ATTENTION]

    @classmethod
    def active(cls) -> list[RunStatus]:
        return [cls.QUEUED, cls.RUNNING, cls.CANCELLING, cls.LOST]

    @classmethod
    def claimed(cls) -> list[RunStatus]:
        """Statuses in which a worker may write to the run."""
        return [cls.RUNNING, cls.CANCELLING]

    @property
    def is_terminal(self) -> bool:
        return self in {
            RunStatus.CANCELLED, RunStatus.SUCCEEDED, RunStatus.FAILED,
            RunStatus.ROLLED_BACK, RunStatus.REJECTED, RunStatus.EXPIRED,
        }  # fmt: skip

    @property
    def is_moving(self) -> bool:
        """Whether the page should keep asking for news."""
        return self in {RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.CANCELLING, RunStatus.LOST}


class StepStatus(Shown):
    PENDING = "pending", _("Pending")
    RUNNING = "running", _("Running")
    SUCCEEDED = "succeeded", _("Succeeded")
    FAILED = "failed", _("Failed")
    SKIPPED = "skipped", _("Skipped")
    CANCELLED = "cancelled", _("Cancelled")
    UNKNOWN = "unknown", _("Unknown")

    @classmethod
    def looks(cls) -> dict[str, tuple[str, str]]:
        return {
            cls.PENDING: ("idle", "circle-dashed"),
            cls.RUNNING: ("info", "loader"),
            cls.SUCCEEDED: ("good", "circle-check"),
            cls.FAILED: ("bad", "circle-x"),
            cls.SKIPPED: ("idle", "circle-dot"),
            cls.CANCELLED: ("idle", "ban"),
            cls.UNKNOWN: ("warn", "circle-help"),
        }


class Health(Shown):
    HEALTHY = "healthy", _("Healthy")
    UNHEALTHY = "unhealthy", _("Unhealthy")
    UNKNOWN = "unknown", _("Not checked yet")

    @classmethod
    def looks(cls) -> dict[str, tuple[str, str]]:
        return {
            cls.HEALTHY: ("good", "circle-check"),
            cls.UNHEALTHY: ("bad", "circle-x"),
            cls.UNKNOWN: ("idle", "circle-dashed"),
        }


class AutoRollback(models.TextChoices):
    NO_WRITES = "no_writes", _("When nobody else has written since the backup")
    ALWAYS = "always", _("Always (later writes stay in the replaced database)")
    NEVER = "never", _("Never: a person decides")


class BackupReason(models.TextChoices):
    MANUAL = "manual", _("Manual")
    PRE_MIGRATION = "pre_migration", _("Before a migration")
    BEFORE_RESTORE = "before_restore", _("Before a restore")
    SCHEDULED = "scheduled", _("Scheduled")
    IMPORTED = "imported", _("Imported")


class ProofLevel(models.IntegerChoices):
    """How far a backup is shown to be restorable; 2 and above mean it was restored."""

    NONE = -1, _("not proven")
    CHECKSUM = 0, _("checksum only")
    DECODED = 1, _("decoded")
    RESTORED = 2, _("restored")
    CONTENT = 3, _("content equal")

    @property
    def tone(self) -> str:
        return "good" if self >= ProofLevel.RESTORED else "idle"

    @property
    def icon(self) -> str:
        return "shield-check" if self >= ProofLevel.RESTORED else "circle-dashed"


def look_of(choice: Any) -> tuple[str, str, str]:
    """Return (tone, icon, word) of a status value that has looks."""
    return choice.tone, choice.icon, str(choice.label)
