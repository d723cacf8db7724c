"""Links with which somebody sets a new password: for one person, once, for a day."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.tokens import PasswordResetTokenGenerator
from django.urls import reverse
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_encode

from opsconsole.access.models import User


class _Tokens(PasswordResetTokenGenerator):
    """Django's: dead once the password was set or the person signed in; and once locked out."""

    key_salt = "opsconsole.password-link"

    def _make_hash_value(self, user: Any, timestamp: int) -> str:
        return f"{super()._make_hash_value(user, timestamp)}{user.session_generation}"


TOKENS = _Tokens()


def path_for(user: User) -> str:
    """The path of the person's link."""
    uid = urlsafe_base64_encode(force_bytes(user.pk))
    return reverse("password-link", args=[uid, TOKENS.make_token(user)])
