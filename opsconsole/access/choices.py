"""Roles: their value and their word."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class Role(models.TextChoices):
    VIEWER = "viewer", _("Viewer")
    OPERATOR = "operator", _("Operator")
    REVIEWER = "reviewer", _("Reviewer")
    ADMIN = "admin", _("Admin")


class Guesser(models.TextChoices):
    """Whose wrong passwords are counted together: its value and its word."""

    NAME = "name", _("for one name")
    ADDRESS = "address", _("from one address")
    ANYBODY = "anybody", _("from anywhere")
    DEVICE = "device", _("on one known device")


class Factor(models.TextChoices):
    """What people prove besides a password that it is them: django-allauth's value and our word."""

    APP = "totp", _("an authenticator app")
    PASSKEY = "webauthn", _("a passkey")
    CODES = "recovery_codes", _("recovery codes")
