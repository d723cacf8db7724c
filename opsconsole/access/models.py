"""Who may sign in, and with which role where."""

from __future__ import annotations

from django.contrib.auth.models import AbstractUser
from django.contrib.postgres.fields import ArrayField
from django.contrib.sessions.models import Session
from django.db import models
from django.utils.translation import gettext_lazy as _

from opsconsole.access.browsers import browser_of
from opsconsole.access.choices import Guesser, Role
from opsconsole.access.places import CONSOLE, Place


class User(AbstractUser):
    """A person. Rights come from memberships only, never from Django's flags or groups."""

    class Theme(models.TextChoices):
        SYSTEM = "", _("As the system")
        LIGHT = "light", _("Light")
        DARK = "dark", _("Dark")

    theme = models.CharField(_("theme"), max_length=8, blank=True, choices=Theme.choices)
    time_zone = models.CharField(_("time zone"), max_length=64, default="UTC")
    # Raised to end every session of the person for good.
    session_generation = models.PositiveIntegerField(default=0, db_default=0)

    def _get_session_auth_hash(self, secret: str | None = None) -> str:
        """What every session holds and every request compares: Django's own, by generation."""
        djangos = super()._get_session_auth_hash(secret)  # type: ignore[misc]
        return f"{djangos}{self.session_generation or ''}"


class Membership(models.Model):
    """One role of one user: everywhere, in one application, or in one environment."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=Role.choices)
    application = models.ForeignKey(
        "Application", null=True, blank=True, on_delete=models.CASCADE, related_name="+"
    )
    environment = models.ForeignKey(
        "Environment", null=True, blank=True, on_delete=models.CASCADE, related_name="+"
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["user", "role", "application", "environment"],
                name="membership_once",
                nulls_distinct=False,
            ),
            models.CheckConstraint(
                condition=models.Q(application=None) | models.Q(environment=None),
                name="membership_one_scope",
            ),
        ]

    @property
    def place(self) -> Place:
        return self.environment or self.application or CONSOLE

    def __str__(self) -> str:
        return f"{self.user} is {self.role} of {self.environment or self.application or 'all'}"


class OpenSession(models.Model):
    """What is known of a session of somebody: where it was begun, and when it was used."""

    # Without a constraint: whoever ends a session waits for nobody who is just noting its use.
    session = models.OneToOneField(
        Session, on_delete=models.CASCADE, related_name="+", db_constraint=False
    )
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+")
    address = models.GenericIPAddressField(null=True)
    user_agent = models.CharField(max_length=300, blank=True)
    began_at = models.DateTimeField()
    used_at = models.DateTimeField()

    @property
    def browser(self) -> str:
        return browser_of(self.user_agent)

    def __str__(self) -> str:
        return f"{self.browser}, {self.address}" if self.address else self.browser


class RecentGuesses(models.Model):
    """When passwords were guessed within the last hour, by what they are counted by.

    `key` is a digest: what was typed as a name may be a password.
    """

    guesser = models.CharField(max_length=8, choices=Guesser.choices)
    key = models.CharField(max_length=64)
    at = ArrayField(models.DateTimeField())
    # When the audit trail was told that no more are let through.
    told_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["guesser", "key"], name="guesses_once")]

    def __str__(self) -> str:
        return f"Guesses {self.get_guesser_display()}: {len(self.at)}"
