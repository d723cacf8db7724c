"""Signing in and out, both in the audit trail."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.contrib.auth.views import LoginView
from django.dispatch import receiver

from opsconsole.access.models import User
from opsconsole.events import recording as audit
from opsconsole.events.models import AuditEvent


class SignInView(LoginView):
    template_name = "opsconsole/sign_in.html"
    redirect_authenticated_user = True


@receiver(user_logged_in)
def _record_sign_in(user: User, **_kwargs: Any) -> None:
    audit.record("person.signed_in", actor=user, about=user)


@receiver(user_logged_out)
def _record_sign_out(user: User | None, **_kwargs: Any) -> None:
    if user:
        audit.record("person.signed_out", actor=user, about=user)


@receiver(user_login_failed)
def _record_failure(credentials: dict[str, Any], **_kwargs: Any) -> None:
    name = str(credentials.get("username", ""))[:150]
    audit.record("person.sign_in_failed", actor=None, outcome=AuditEvent.Outcome.DENIED,
                 details={"username": name})  # fmt: skip
