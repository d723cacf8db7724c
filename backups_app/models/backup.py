"""Backups, and databases that a restore has replaced."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import models
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from backups_app.archives.archive import StoredForm
from backups_app.choices import BackupReason, ProofLevel
from backups_app.models.storage import Storage
from opsconsole.choices import Shown
from opsconsole.environments.models import Environment, Target
from opsconsole.runs.models import Run
from opsconsole.targets import ddl_log
from opsconsole.targets.event_triggers import EventTrigger
from opsconsole.targets.ownership import Ownership
from opsconsole.targets.server import ServerFacts
from opsconsole.work.models import WorkItem


class BackupQuerySet(models.QuerySet["Backup"]):
    def listed(self) -> BackupQuerySet:
        return self.filter(deleted_at=None).select_related("environment__application", "run")

    def proven(self) -> BackupQuerySet:
        """Taken here, restored at least once, and neither deleted nor about to be."""
        return self.filter(
            deleted_at=None, expires_at=None, proof__gte=ProofLevel.RESTORED
        ).exclude(reason=BackupReason.IMPORTED)


class Backup(models.Model):
    """A restorable artifact. The row appears when its file is whole and its checksum known.

    `manifest` repeats what lies beside the file as JSON, so that the file can be restored
    without this database.
    """

    environment = models.ForeignKey(Environment, on_delete=models.PROTECT, related_name="backups")
    target = models.ForeignKey(Target, on_delete=models.PROTECT, related_name="backups")
    run = models.ForeignKey(Run, on_delete=models.PROTECT, related_name="backups")
    reason = models.CharField(
        max_length=16, choices=BackupReason.choices, default=BackupReason.MANUAL
    )
    key = models.CharField(max_length=300, unique=True)
    size_bytes = models.BigIntegerField()
    raw_bytes = models.BigIntegerField()
    sha256 = models.CharField(max_length=64)
    manifest = models.JSONField()
    proof = models.SmallIntegerField(choices=ProofLevel.choices, default=ProofLevel.CHECKSUM)
    proven_at = models.DateTimeField(null=True)
    restore_seconds = models.FloatField(null=True)
    # Why the last proof did not hold; "" when it did.
    proof_problem = models.CharField(max_length=500, blank=True)
    taken_at = models.DateTimeField(default=timezone.now)

    held_at = models.DateTimeField(null=True)
    held_until = models.DateTimeField(null=True)
    held_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+"
    )
    hold_reason = models.CharField(max_length=500, blank=True)

    # Two phases: marked with its reason, and deleted once the grace is over.
    expires_at = models.DateTimeField(null=True)
    expiry_reason = models.CharField(max_length=500, blank=True)
    deleted_at = models.DateTimeField(null=True)

    objects = BackupQuerySet.as_manager()

    class Meta:
        ordering = ["-taken_at", "-id"]
        indexes = [
            models.Index(
                fields=["-taken_at", "-id"],
                condition=models.Q(deleted_at=None),
                name="backup_newest",
            ),
            models.Index(
                fields=["environment", "-taken_at", "-id"],
                condition=models.Q(deleted_at=None),
                name="backup_newest_of_environment",
            ),
        ]

    def __str__(self) -> str:
        return f"backup {self.pk} of {self.environment}"

    def get_absolute_url(self) -> str:
        return reverse("backup", args=[self.pk])

    @property
    def proof_level(self) -> ProofLevel:
        return ProofLevel(self.proof)

    @property
    def is_held(self) -> bool:
        """On hold now: for good, or until a time that has not come."""
        if self.held_at is None:
            return False
        return self.held_until is None or self.held_until > timezone.now()

    @property
    def form(self) -> StoredForm:
        return StoredForm.from_manifest(self.manifest)

    @property
    def is_imported(self) -> bool:
        """Made by somebody else: what it holds is known only once it was restored."""
        return self.reason == BackupReason.IMPORTED

    @property
    def is_counted(self) -> bool:
        """Whether the manifest says what it holds."""
        return self.manifest["content"] is not None

    def keeps_owners_in(self, target_id: int) -> bool:
        """Whether a restore there gives everything to its owners rather than to one role."""
        return self.target_id == target_id and not self.is_imported

    @property
    def owned(self) -> Ownership | None:
        """Who owns what is in it; None for one that was made before that was written down."""
        owned = self.manifest.get("owned")
        return Ownership(**owned) if owned else None

    @property
    def extensions(self) -> dict[str, str]:
        """Those of the database it was made of, with their versions ("" where not known)."""
        return dict(self.manifest.get("extensions", {}))

    @property
    def proven_on(self) -> str:
        """The role and the server that restored it to prove it; "" where that was not written down."""
        return str(self.manifest.get("proven_on", ""))

    @property
    def belongings(self) -> dict[str, str] | None:
        """What belonged to the database besides rows and schema, by digest; None if not recorded."""
        found: dict[str, str] | None = self.manifest.get("belongings")
        return found

    @property
    def event_triggers(self) -> list[EventTrigger]:
        """Those in the archive, with the ones of the log of schema changes."""
        return [EventTrigger(**each) for each in self.manifest.get("event_triggers", [])]

    def event_triggers_lost(self, facts: ServerFacts) -> list[EventTrigger]:
        """Those that a restore by that role cannot make. The log's do not count."""
        if facts.is_superuser:
            return []
        return [each for each in self.event_triggers if each.name not in ddl_log.TRIGGERS]

    @property
    def tables(self) -> dict[str, dict[str, Any]]:
        """`{schema.table: {rows, hash}}`; empty while it is not counted."""
        return self.manifest["content"]["tables"] if self.is_counted else {}

    @property
    def rows(self) -> int:
        return sum(table["rows"] for table in self.tables.values())


class CopyState(Shown):
    """What is known of one copy of a backup."""

    STORED = "stored", _("stored")
    COPYING = "copying", _("being copied")
    FAILED = "failed", _("not copied")
    CORRUPT = "corrupt", _("corrupt")
    MISSING = "missing", _("missing")
    UNREACHABLE = "unreachable", _("could not be checked")
    DELETING = "deleting", _("being deleted")
    DELETED = "deleted", _("deleted")

    @classmethod
    def looks(cls) -> dict[str, tuple[str, str]]:
        return {
            cls.STORED: ("good", "circle-check"),
            cls.COPYING: ("info", "loader"),
            cls.FAILED: ("bad", "circle-x"),
            cls.CORRUPT: ("bad", "circle-x"),
            cls.MISSING: ("bad", "circle-x"),
            cls.UNREACHABLE: ("warn", "circle-help"),
            cls.DELETING: ("info", "loader"),
            cls.DELETED: ("idle", "trash-2"),
        }

    @classmethod
    def readable(cls) -> list[CopyState]:
        """States in which nothing says that its bytes are not there and whole."""
        return [cls.STORED, cls.UNREACHABLE]

    @classmethod
    def going(cls) -> list[CopyState]:
        return [cls.DELETING, cls.DELETED]


class BackupCopy(models.Model):
    """One backup in one storage, with a state of its own."""

    backup = models.ForeignKey(Backup, on_delete=models.PROTECT, related_name="copies")
    storage = models.ForeignKey(Storage, on_delete=models.PROTECT, related_name="copies")
    state = models.CharField(max_length=16, choices=CopyState.choices, default=CopyState.STORED)
    problem = models.CharField(max_length=500, blank=True)
    stored_at = models.DateTimeField(default=timezone.now)
    checked_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(fields=["backup", "storage"], name="copy_once_per_storage")
        ]

    def __str__(self) -> str:
        return f"{self.backup} in {self.storage}"

    @property
    def look(self) -> CopyState:
        return CopyState(self.state)

    @property
    def is_unknown(self) -> bool:
        """Its storage could not be reached: it may be whole."""
        return self.state == CopyState.UNREACHABLE


class RestoreCheck(models.Model):
    """What a worker found when it looked at a target before a restore.

    `data` holds `findings` (what, text, is_ok) and `losses` (table, rows in the backup, rows
    written since; None where that cannot be known).
    """

    backup = models.ForeignKey(Backup, on_delete=models.CASCADE, related_name="checks")
    target = models.ForeignKey(Target, on_delete=models.CASCADE, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    is_done = models.BooleanField(default=False)
    data = models.JSONField(default=dict)
    error = models.TextField(blank=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"check of {self.backup} into {self.target.environment}"

    @property
    def is_blocked(self) -> bool:
        return any(not finding["is_ok"] for finding in self.data.get("findings", []))


class ReplacedDatabaseQuerySet(models.QuerySet["ReplacedDatabase"]):
    def kept(self) -> ReplacedDatabaseQuerySet:
        """Still on the server under their own name, those that are being dropped too."""
        return self.filter(dropped_at=None, undone_at=None).exclude(swapped_at=None)


class ReplacedDatabase(models.Model):
    """A database that a swap put aside, closed, with every later write in it.

    Written before the swap begins with both OIDs, so that after a crash the server's own
    catalogue says which of the two carries the live name.
    """

    target = models.ForeignKey(Target, on_delete=models.PROTECT, related_name="replaced")
    run = models.ForeignKey(Run, on_delete=models.PROTECT, related_name="replaced")
    live_name = models.CharField(max_length=63)
    replaced_name = models.CharField(max_length=63)
    built_name = models.CharField(max_length=63)
    old_oid = models.BigIntegerField()
    new_oid = models.BigIntegerField()
    size_bytes = models.BigIntegerField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)
    swapped_at = models.DateTimeField(null=True)
    # The swap that this one takes back, and when one took this back.
    undoes = models.ForeignKey("self", null=True, on_delete=models.PROTECT, related_name="+")
    undone_at = models.DateTimeField(null=True)
    # Asked for, by whom, and the work that does it; dropped once the server was seen without it.
    drop_requested_at = models.DateTimeField(null=True)
    drop_work = models.ForeignKey(WorkItem, null=True, on_delete=models.SET_NULL, related_name="+")
    dropped_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+"
    )
    dropped_at = models.DateTimeField(null=True)

    objects = ReplacedDatabaseQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.replaced_name

    @property
    def may_be_undone(self) -> bool:
        gone = self.dropped_at or self.drop_requested_at or self.undone_at
        return self.swapped_at is not None and not gone
