"""Kinds and statuses of runs: value, word, tone and icon."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from opsconsole.choices import Shown


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
            RunStatus.CANCELLED,
            RunStatus.SUCCEEDED,
            RunStatus.FAILED,
            RunStatus.ROLLED_BACK,
            RunStatus.REJECTED,
            RunStatus.EXPIRED,
        }

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
