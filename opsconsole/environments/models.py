"""Applications, their ordered environments, and the databases these point at."""

from __future__ import annotations

from datetime import timedelta

from django.core.validators import MinValueValidator
from django.db import models
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.translation import gettext_lazy as _

from opsconsole.access.models import User
from opsconsole.access.places import CONSOLE, Place, Spot
from opsconsole.addresses import page
from opsconsole.environments.choices import AutoRollback
from opsconsole.environments.migration_status import MigrationStatus
from opsconsole.environments.readings import MigrationSeen, TargetRead


class Application(models.Model):
    """One codebase with one migration history."""

    name = models.CharField(_("name"), max_length=80)
    slug = models.SlugField(_("short name"), unique=True)
    engine = models.CharField(_("migration engine"), max_length=32, default="prisma")
    migrations_folder = models.CharField(
        _("migrations folder"),
        max_length=500,
        blank=True,
        db_default="",
        help_text=_(
            "The folder on the workers that holds the migrations. Empty where they come from git, "
            "or where each environment names its own."
        ),
    )
    created_at = models.DateTimeField(auto_now_add=True)
    archived_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def spot(self) -> Spot:
        return Spot(self.pk)

    def get_absolute_url(self) -> str:
        return page("application", self.slug)


class EnvironmentQuerySet(models.QuerySet["Environment"]):
    def shown(self) -> EnvironmentQuerySet:
        """Not archived, in the order of the path from development to production."""
        return (
            self.filter(archived_at=None, application__archived_at=None)
            .select_related("application")
            .order_by("application__name", "position")
        )


class Environment(models.Model):
    """One stage of an application, with its policies."""

    application = models.ForeignKey(
        Application, on_delete=models.PROTECT, related_name="environments"
    )
    name = models.CharField(_("name"), max_length=80)
    slug = models.SlugField(_("short name"))
    position = models.PositiveSmallIntegerField(_("position"), default=1)
    migrations_folder = models.CharField(
        _("migrations folder"),
        max_length=500,
        blank=True,
        help_text=_("Where it differs from the application's: a folder on the workers."),
    )
    is_protected = models.BooleanField(
        _("protected"),
        default=False,
        help_text=_("Asks for the checklist and the typed name; never skips the backup."),
    )
    backup_before_migrate = models.BooleanField(_("back up before a migration"), default=True)
    auto_rollback = models.CharField(
        _("go back by itself"),
        max_length=16,
        choices=AutoRollback.choices,
        default=AutoRollback.NO_WRITES,
    )
    queue = models.CharField(
        _("queue"), max_length=64, default="runs", help_text=_("The Celery queue of its runs.")
    )
    settle_seconds = models.PositiveIntegerField(
        _("settle time (s)"), default=10, help_text=_("How long health must stay good at the end.")
    )
    lock_timeout_seconds = models.FloatField(
        _("one wait for a lock (s)"),
        default=2,
        validators=[MinValueValidator(0.1)],
        help_text=_("A migration that waits longer gives up, lets the others pass, tries again."),
    )
    lock_patience_seconds = models.PositiveIntegerField(
        _("keep retrying for (s)"),
        default=300,
        help_text=_("Total time to keep retrying for a lock."),
    )
    blocking_limit_seconds = models.FloatField(
        _("maximum time the application may be blocked (s)"),
        default=3,
        validators=[MinValueValidator(0.1)],
        help_text=_("When sessions wait longer behind a migration, the migration is given up."),
    )
    statement_timeout_seconds = models.PositiveIntegerField(
        _("longest statement (s)"), default=3600, validators=[MinValueValidator(1)]
    )
    created_at = models.DateTimeField(auto_now_add=True)
    archived_at = models.DateTimeField(null=True, blank=True)

    objects = EnvironmentQuerySet.as_manager()

    class Meta:
        ordering = ["application", "position"]
        constraints = [
            models.UniqueConstraint(fields=["application", "slug"], name="environment_slug_once")
        ]

    def __str__(self) -> str:
        return f"{self.application.name} {self.name.lower()}"

    @property
    def spot(self) -> Spot:
        return Spot(self.application_id, self.pk)

    @property
    def path(self) -> str:
        return f"{self.application.slug}/{self.slug}"

    @property
    def takes_backup(self) -> bool:
        """A protected environment cannot skip the backup, whatever the field says."""
        return self.is_protected or self.backup_before_migrate

    def get_absolute_url(self) -> str:
        return page("environment", self.application.slug, self.slug)


class TargetQuerySet(models.QuerySet["Target"]):
    def shown(self) -> TargetQuerySet:
        """Those of environments that are shown, in the same order."""
        return (
            self.filter(environment__archived_at=None, environment__application__archived_at=None)
            .select_related("environment__application")
            .order_by("environment__application__name", "environment__position")
        )

    def of(self, **named: object) -> Target:
        """The target of the environment with these fields, for who knows only the environment.

        Nothing else relies on an environment having one. Raises DoesNotExist.
        """
        return self.get(**{f"environment__{field}": value for field, value in named.items()})


class Target(models.Model):
    """One database. Its address is kept encrypted, or as a reference resolved on workers."""

    environment = models.ForeignKey(Environment, on_delete=models.PROTECT, related_name="targets")
    dsn_encrypted = models.TextField(blank=True)
    dsn_reference = models.CharField(
        max_length=500, blank=True, help_text=_("env:NAME or file:PATH, resolved on the workers.")
    )
    # Where scratch databases are built; "" beside the database itself. A sealed address, or a
    # sealed reference like the one above.
    scratch_dsn_encrypted = models.TextField(blank=True)
    # Where archives made elsewhere are restored first; "" nowhere. Sealed like the one above.
    quarantine_dsn_encrypted = models.TextField(blank=True, db_default="")
    # Server identity, as a worker read it: two environments on one database are refused.
    system_identifier = models.CharField(max_length=32, blank=True)
    database_name = models.CharField(max_length=63, blank=True)

    objects = TargetQuerySet.as_manager()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(dsn_encrypted="") ^ models.Q(dsn_reference=""),
                name="target_one_address",
            ),
            # To be lifted when an environment may have several, one for each tenant.
            models.UniqueConstraint(fields=["environment"], name="target_one_per_environment"),
            models.UniqueConstraint(
                fields=["system_identifier", "database_name"],
                condition=~models.Q(system_identifier=""),
                name="target_database_once",
            ),
        ]

    def __str__(self) -> str:
        return f"database {self.database_name or '(not read yet)'} of {self.environment}"

    @property
    def latest_state(self) -> TargetState | None:
        """The newest; where a page has read `newest_states` for all its parts, the one of these."""
        newest = getattr(self, "newest_states", None)
        return next(iter(self.states.all()[:1] if newest is None else newest), None)


class TargetState(models.Model):
    """What a worker read from the target itself, and when. `data` is empty if it failed.

    `data` is a reading as it is stored: `seen` is what every room may know of it, the rest is read
    by those who wrote it. Its migrations are in the engine's order.
    """

    target = models.ForeignKey(Target, on_delete=models.CASCADE, related_name="states")
    observed_at = models.DateTimeField(default=timezone.now)
    data = models.JSONField(default=dict)
    error = models.TextField(blank=True)

    class Meta:
        ordering = ["-observed_at"]
        indexes = [models.Index(fields=["target", "-observed_at"])]

    def __str__(self) -> str:
        return f"state of {self.target} at {self.observed_at:%Y-%m-%d %H:%M:%S}"

    @cached_property
    def seen(self) -> TargetRead:
        """What was read, as far as every room may know it."""
        return TargetRead.model_validate(self.data)

    def names(self, *statuses: MigrationStatus) -> list[str]:
        """Names of the migrations in any of the given statuses, in order."""
        return [m.name for m in self.seen.migrations if m.state in statuses]

    @property
    def pending(self) -> list[str]:
        return [m.name for m in self.seen.migrations if m.state.is_pending]

    @property
    def applied(self) -> list[str]:
        return [m.name for m in self.seen.migrations if m.state.is_finished]

    @property
    def troubled(self) -> list[MigrationSeen]:
        return [m for m in self.seen.migrations if m.state.is_troubled]

    def is_fresh(self, seconds: float) -> bool:
        return timezone.now() - self.observed_at < timedelta(seconds=seconds)


class Draft(models.Model):
    """What somebody is about to add, which a worker tries before it is saved.

    With an application it is an environment of it, without one an application. `given` is what was
    typed, by field, for the form that judges it again; addresses and tokens are `sealed`. `found`
    is what the worker found, or `error` why it found nothing: of try number `tries`, begun at
    `tried_at`. With both, a database was read, and `error` is why its migrations could not be.
    """

    application = models.ForeignKey(
        Application, null=True, on_delete=models.CASCADE, related_name="drafts"
    )
    made_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    made_at = models.DateTimeField(default=timezone.now)
    given = models.JSONField(default=dict)
    sealed = models.JSONField(default=dict)
    tries = models.PositiveIntegerField(default=0)
    tried_at = models.DateTimeField(null=True)
    found = models.JSONField(default=dict)
    error = models.TextField(blank=True)

    class Meta:
        ordering = ["-made_at"]

    def __str__(self) -> str:
        if self.application is None:
            return "a new application"
        return f"a new environment of {self.application}"

    @property
    def place(self) -> Place:
        """Where one needs the right to add it."""
        return self.application or CONSOLE

    def get_absolute_url(self) -> str:
        return page("draft-edit" if self.application else "source-edit", self.pk)
