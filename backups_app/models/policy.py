"""What an environment's admin decided about its backups."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from backups_app import schedules
from backups_app.choices import BackupReason, ProofLevel
from backups_app.models.storage import Storage
from backups_app.retention import Rules
from opsconsole.environments.models import Environment, Target

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise as StrPromise


def _count(label: StrPromise, **more: object) -> models.PositiveIntegerField:
    return models.PositiveIntegerField(label, null=True, blank=True, **more)  # type: ignore[arg-type]


class BackupPolicyQuerySet(models.QuerySet["BackupPolicy"]):
    def of(self, environment: Environment) -> BackupPolicy:
        """The environment's policy; the default one, unsaved, where nobody has set any."""
        found = self.filter(environment=environment).select_related("storage").first()
        return found or self.default(environment, storage=Storage.objects.builtin())

    def default(self, environment: Environment, **fields: Any) -> BackupPolicy:
        """What holds where nobody has set a policy."""
        keep_days = settings.DATABASE_BACKUP_RETENTION_DAYS or None
        return BackupPolicy(environment=environment, keep_days=keep_days, **fields)

    def by_environment(self, environments: Iterable[Environment]) -> dict[int, BackupPolicy]:
        """`{environment id: policy}` of those that have one."""
        return {
            policy.environment_id: policy for policy in self.filter(environment__in=environments)
        }


class BackupPolicy(models.Model):
    """How backups of an environment are taken, where they go, how they are proven and kept."""

    class Format(models.TextChoices):
        CUSTOM = "custom", _("custom: one stream, no temporary space")
        DIRECTORY = "directory", _("directory: in parallel, through a temporary folder")

    environment = models.OneToOneField(
        Environment, on_delete=models.PROTECT, related_name="backup_policy"
    )
    format = models.CharField(
        _("format"), max_length=16, choices=Format.choices, default=Format.CUSTOM
    )
    level = models.PositiveSmallIntegerField(
        _("compression (zstd level)"),
        default=1,
        validators=[MaxValueValidator(19)],
        help_text=_("0 for none; 1 is the fastest; above 9 takes long for little."),
    )
    jobs = models.PositiveSmallIntegerField(
        _("parallel jobs"),
        default=1,
        validators=[MinValueValidator(1), MaxValueValidator(32)],
        help_text=_("For directory dumps, and for restores (through a temporary folder)."),
    )
    recipients = models.TextField(
        _("encrypt to"),
        blank=True,
        help_text=_(
            "age public keys, one per line; empty stores without encryption. The console's own key "
            "is added, so that it can prove and restore."
        ),
    )
    storage = models.ForeignKey(
        Storage, on_delete=models.PROTECT, related_name="+", verbose_name=_("storage")
    )
    copies = models.ManyToManyField(
        Storage,
        blank=True,
        related_name="+",
        verbose_name=_("copies to"),
        help_text=_("Each proven backup is copied there too, and each copy is checked."),
    )

    backup_cron = models.CharField(_("back up at"), max_length=100, blank=True)
    verify_cron = models.CharField(_("prove again at"), max_length=100, blank=True)
    time_zone = models.CharField(_("time zone of both"), max_length=64, default="UTC")
    verify_level = models.SmallIntegerField(
        _("proof level"),
        choices=[(level.value, level.label) for level in ProofLevel if level >= 0],
        default=ProofLevel.CONTENT,
    )
    assertions = models.TextField(
        _("assertions"),
        blank=True,
        help_text=_("SQL, one query per line, run in the restored copy; each must return true."),
    )
    masking_sql = models.TextField(
        _("masking script"),
        blank=True,
        help_text=_(
            "SQL that is run in the restored copy, in one transaction, before data of this "
            "environment goes to another one. Without it that takes an admin's consent."
        ),
    )
    alarm_hours = _count(_("alarm when the newest proven backup is older than (hours)"), default=48)

    keep_days = _count(_("keep all of the last … days"))
    keep_last = _count(_("keep the last …"))
    keep_daily = _count(_("keep one a day, for … days"))
    keep_weekly = _count(_("keep one a week, for … weeks"))
    keep_monthly = _count(_("keep one a month, for … months"))
    keep_yearly = _count(_("keep one a year, for … years"))
    pre_migration_days = _count(_("keep those before a migration for … days"))
    manual_days = _count(_("keep manual ones for … days"))
    before_restore_days = _count(_("keep those before a restore for … days"))
    minimum_kept = models.PositiveIntegerField(_("never fewer proven ones than"), default=1)
    maximum_bytes = models.PositiveBigIntegerField(
        _("delete the oldest beyond (bytes)"), null=True, blank=True
    )
    grace_days = models.PositiveIntegerField(
        _("grace before deletion (days)"),
        default=7,
        help_text=_("Until then you can still keep it by placing a hold."),
    )
    changed_at = models.DateTimeField(auto_now=True)

    objects = BackupPolicyQuerySet.as_manager()

    def __str__(self) -> str:
        return f"backup policy of {self.environment}"

    @property
    def in_words(self) -> str:
        """When backups are taken and proven, how long they are kept, and where they lie."""
        parts = [
            _g("Backed up: %(when)s (%(zone)s).")
            % {"when": schedules.in_words(self.backup_cron), "zone": self.time_zone}
            if self.backup_cron
            else _g("No schedule.")
        ]
        if self.verify_cron:
            parts.append(
                _g("Proven again: %(when)s.") % {"when": schedules.in_words(self.verify_cron)}
            )
        if self.rules.is_empty and self.maximum_bytes is None:
            parts.append(_g("Nothing is deleted."))
        else:
            parts.append(
                ngettext(
                    "Kept as the policy says, and deleted after a grace of %(days)d day.",
                    "Kept as the policy says, and deleted after a grace of %(days)d days.",
                    self.grace_days,
                )
                % {"days": self.grace_days}
            )
        return " ".join(parts)

    @property
    def rules(self) -> Rules:
        return Rules(
            keep_days=self.keep_days,
            keep_last=self.keep_last,
            daily=self.keep_daily,
            weekly=self.keep_weekly,
            monthly=self.keep_monthly,
            yearly=self.keep_yearly,
            class_days={
                reason: days
                for reason, days in (
                    (BackupReason.PRE_MIGRATION.value, self.pre_migration_days),
                    (BackupReason.MANUAL.value, self.manual_days),
                    (BackupReason.IMPORTED.value, self.manual_days),
                    (BackupReason.BEFORE_RESTORE.value, self.before_restore_days),
                )
                if days is not None
            },
            minimum_kept=self.minimum_kept,
            maximum_bytes=self.maximum_bytes,
            time_zone=self.time_zone,
        )


class ScheduledOccurrence(models.Model):
    """That a schedule came due, once; `run` is what was queued, or `refusal` why none was."""

    target = models.ForeignKey(Target, on_delete=models.PROTECT, related_name="occurrences")
    kind = models.CharField(max_length=16)
    due_at = models.DateTimeField()
    run = models.OneToOneField(
        "opsconsole.Run", null=True, on_delete=models.PROTECT, related_name="occurrence"
    )
    refusal = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ["-due_at"]
        constraints = [
            models.UniqueConstraint(fields=["target", "kind", "due_at"], name="occurrence_once")
        ]

    def __str__(self) -> str:
        return f"{self.kind} of {self.target.environment} at {self.due_at}"
