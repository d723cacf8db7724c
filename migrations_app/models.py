"""What the console keeps of migrations: texts by their hash, lint levels, waived findings."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from opsconsole.models import Application, User


class ScriptText(models.Model):
    """One version of one script. Kept for good: it is the evidence of what was run."""

    sha256 = models.CharField(max_length=64, primary_key=True)
    sql = models.TextField()
    first_seen_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.sha256[:12]


class LintLevel(models.Model):
    """What an application's admin decided about one rule; without one, the rule's own level."""

    class Level(models.TextChoices):
        OFF = "off", _("off")
        WARN = "warn", _("warn")
        BLOCK = "block", _("block")

    application = models.ForeignKey(
        Application, on_delete=models.CASCADE, related_name="lint_levels"
    )
    rule = models.CharField(max_length=64)
    level = models.CharField(max_length=8, choices=Level.choices)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["application", "rule"], name="lint_level_once")
        ]

    def __str__(self) -> str:
        return f"{self.rule}: {self.level}"


class Waiver(models.Model):
    """A finding that somebody answers for, with a reason: one rule in one text of a migration."""

    application = models.ForeignKey(Application, on_delete=models.PROTECT, related_name="waivers")
    migration = models.CharField(max_length=255)
    checksum = models.CharField(max_length=64)
    rule = models.CharField(max_length=64)
    reason = models.CharField(max_length=500)
    waived_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    waived_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["application", "migration", "checksum", "rule"], name="waiver_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.rule} in {self.migration}"
