"""Signing in and out, both in the audit trail, or refused."""

from __future__ import annotations

from typing import Any

from allauth.account.internal.flows.login import perform_login, record_authentication
from allauth.account.models import Login
from allauth.account.signals import user_logged_in as signed_in
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.contrib.auth.views import LoginView, LogoutView
from django.db import transaction
from django.dispatch import receiver
from django.forms import ValidationError
from django.http import HttpRequest, HttpResponse
from django.utils.decorators import method_decorator

from opsconsole.access import events
from opsconsole.access.devices import known_device, remember_device
from opsconsole.access.guessing import give_back, take_guess
from opsconsole.access.models import User
from opsconsole.events import recording as audit
from opsconsole.events.models import AuditEvent
from opsconsole.exceptions import Refused
from opsconsole.web.errors import status_of


class LimitedBackend(ModelBackend):
    """Looks at passwords, of which only so many may be guessed."""

    def authenticate(
        self,
        request: HttpRequest | None,
        username: str | None = None,
        password: str | None = None,
        **others: Any,
    ) -> Any:
        """The person whose password that is. Raises Refused (too many)."""
        if not username or password is None:
            return None
        guess = take_guess(
            name=username,
            address=request.META.get("REMOTE_ADDR", "") if request else "",
            device=known_device(request, username) if request else "",
        )
        user = super().authenticate(request, username, password, **others)
        if user:
            give_back(guess)
        return user


class SignInForm(AuthenticationForm):
    refusal: Refused | None = None

    def clean(self) -> dict[str, Any]:
        try:
            return super().clean()
        except Refused as refusal:
            self.refusal = refusal
            raise ValidationError(str(refusal)) from refusal


class SignInView(LoginView):
    template_name = "opsconsole/sign_in.html"
    redirect_authenticated_user = True
    authentication_form = SignInForm

    @method_decorator(transaction.atomic)
    def form_valid(self, form: AuthenticationForm) -> HttpResponse:
        """Sign in, or ask for a second factor first where the person has one."""
        user: Any = form.get_user()
        record_authentication(self.request, user, method="password")
        return perform_login(self.request, Login(user=user, redirect_url=self.get_success_url()))

    def form_invalid(self, form: AuthenticationForm) -> HttpResponse:
        answer = super().form_invalid(form)
        refusal = getattr(form, "refusal", None)
        answer.status_code = status_of(refusal) if refusal else answer.status_code
        return answer


@method_decorator(transaction.atomic, name="dispatch")
class SignOutView(LogoutView):
    pass


@receiver(signed_in)
def _remember_device(user: User, response: HttpResponse, **_kwargs: Any) -> None:
    remember_device(response, user)


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
