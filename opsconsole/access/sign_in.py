"""Signing in and out, both in the audit trail, or refused."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.contrib.auth.views import LoginView, LogoutView
from django.db import transaction
from django.dispatch import receiver
from django.utils.decorators import method_decorator

from opsconsole.access import events
from opsconsole.access.models import User
from opsconsole.events import recording as audit
from opsconsole.events.models import AuditEvent


@method_decorator(transaction.atomic, name="dispatch")
class SignInView(LoginView):
    template_name = "opsconsole/sign_in.html"
    redirect_authenticated_user = True


@method_decorator(transaction.atomic, name="dispatch")
class SignOutView(LogoutView):
    pass


@receiver(user_logged_in)
@transaction.atomic
def _record_sign_in(user: User, **_kwargs: Any) -> None:
    audit.record(events.SIGNED_IN, actor=user, about=user)


@receiver(user_logged_out)
@transaction.atomic
def _record_sign_out(user: User | None, **_kwargs: Any) -> None:
    if user:
        audit.record(events.SIGNED_OUT, actor=user, about=user)


@receiver(user_login_failed)
@transaction.atomic
def _record_failure(credentials: dict[str, Any], **_kwargs: Any) -> None:
    name = str(credentials.get("username", ""))[:150]
    audit.record(
        events.SIGN_IN_FAILED,
        actor=None,
        outcome=AuditEvent.Outcome.DENIED,
        data=events.SignInFailed(username=name),
    )
