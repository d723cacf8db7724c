"""Policies of an environment."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class AutoRollback(models.TextChoices):
    NO_WRITES = "no_writes", _("When nobody else has written since the backup")
    ALWAYS = "always", _("Always (later writes stay in the replaced database)")
    NEVER = "never", _("Never: a person decides")
