"""What the console keeps of migrations: texts by their hash, lint levels, waived findings, and
the schemas that targets had and should have."""

from __future__ import annotations

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from opsconsole.access.models import User
from opsconsole.environments.models import Application, Environment, Target
from opsconsole.runs.models import Run


class ScriptText(models.Model):
    """One version of one script. Kept for good: it is the evidence of what was run."""

    sha256 = models.CharField(max_length=64, primary_key=True)
    sql = models.TextField()
    first_seen_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.sha256[:12]


class Repository(models.Model):
    """The git repository that an application's migrations come from, instead of folders.

    `refs` maps an environment's id to the branch, tag or commit it follows instead of `ref`.
    """

    application = models.OneToOneField(
        Application, on_delete=models.CASCADE, related_name="repository"
    )
    url = models.CharField(_("address"), max_length=500)
    ref = models.CharField(_("branch or tag"), max_length=255, default="main")
    folder = models.CharField(_("folder in it"), max_length=500, default="prisma/migrations")
    # A token or a private key, sealed; "" for a repository that anybody may read.
    secret_encrypted = models.TextField(blank=True)
    refs = models.JSONField(default=dict, blank=True)

    def __str__(self) -> str:
        return self.url

    def ref_for(self, environment: Environment) -> str:
        return str(self.refs.get(str(environment.pk)) or self.ref)


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


class SchemaText(models.Model):
    """One canonical schema, by its hash: `definitions` maps each object to its own."""

    sha256 = models.CharField(max_length=64, primary_key=True)
    definitions = models.JSONField()
    first_seen_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.sha256[:12]


class SchemaReading(models.Model):
    """A schema that a target had, from its first reading to its last one in a row."""

    target = models.ForeignKey(Target, on_delete=models.CASCADE, related_name="schema_readings")
    schema = models.ForeignKey(SchemaText, on_delete=models.PROTECT, related_name="+")
    first_read_at = models.DateTimeField(default=timezone.now)
    last_read_at = models.DateTimeField(default=timezone.now)
    # Whether the target keeps a log of schema changes, and what it said of those since the schema
    # last was the one expected, as `ddl_log.read_changes` returns them.
    has_log = models.BooleanField(default=False)
    log = models.JSONField(default=list)

    class Meta:
        ordering = ["-last_read_at"]
        indexes = [models.Index(fields=["target", "-last_read_at"])]

    def __str__(self) -> str:
        return f"{self.schema_id[:12]} in {self.target}"


class ExpectedSchema(models.Model):
    """The schema a target should have: the newest one counts, and says why it does."""

    class Because(models.TextChoices):
        FIRST = "first", _("the first reading")
        RUN = "run", _("a run")
        ACKNOWLEDGED = "acknowledged", _("acknowledged")
        ADOPTED = "adopted", _("adopted")

    target = models.ForeignKey(Target, on_delete=models.CASCADE, related_name="expected_schemas")
    schema = models.ForeignKey(SchemaText, on_delete=models.PROTECT, related_name="+")
    since = models.DateTimeField(default=timezone.now)
    because = models.CharField(max_length=16, choices=Because.choices)
    run = models.ForeignKey(Run, null=True, on_delete=models.PROTECT, related_name="+")
    accepted_by = models.ForeignKey(User, null=True, on_delete=models.PROTECT, related_name="+")
    reason = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ["-since"]
        indexes = [models.Index(fields=["target", "-since"])]

    def __str__(self) -> str:
        return f"{self.schema_id[:12]} expected in {self.target}"
