"""Backups, and databases that a restore has replaced."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.urls import reverse
from django.utils import timezone

from opsconsole.choices import BackupReason, ProofLevel
from opsconsole.models import Environment, Run, Target


class BackupQuerySet(models.QuerySet["Backup"]):
    def listed(self) -> BackupQuerySet:
        return self.filter(deleted_at=None).select_related("environment__application", "run")

    def proven(self) -> BackupQuerySet:
        return self.filter(deleted_at=None, proof__gte=ProofLevel.RESTORED)


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
    taken_at = models.DateTimeField(default=timezone.now)
    deleted_at = models.DateTimeField(null=True)

    objects = BackupQuerySet.as_manager()

    class Meta:
        ordering = ["-taken_at"]
        indexes = [models.Index(fields=["environment", "-taken_at"])]

    def __str__(self) -> str:
        return f"backup {self.pk} of {self.environment}"

    def get_absolute_url(self) -> str:
        return reverse("backup", args=[self.pk])

    @property
    def proof_level(self) -> ProofLevel:
        return ProofLevel(self.proof)

    @property
    def rows(self) -> int:
        return sum(table["rows"] for table in self.manifest["content"]["tables"].values())


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
    dropped_at = models.DateTimeField(null=True)
    dropped_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+"
    )

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.replaced_name
