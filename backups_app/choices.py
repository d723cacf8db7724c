"""Why a backup was taken, and how far it is proven."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


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
