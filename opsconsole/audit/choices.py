"""What strangers are refused for: its value and its word."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class Stranger(models.TextChoices):
    SIGNED_OUT = "signed_out", _("not signed in")
    FORGED = "forged", _("a form too old or from elsewhere")
    GUESSING = "guessing", _("too many wrong passwords before")
    NOTHING_THERE = "nothing_there", _("no such address")
