"""Pages of second factors: an authenticator app, passkeys and recovery codes.

What they do is django-allauth's. Here is how they look, how often a code may be guessed, and what
the audit trail is told.
"""

from __future__ import annotations

import ipaddress
import struct
import time
from functools import partial
from typing import Any

from allauth.account.views import ReauthenticateView
from allauth.mfa.base.forms import AuthenticateForm, ReauthenticateForm
from allauth.mfa.base.views import AuthenticateView, IndexView
from allauth.mfa.base.views import ReauthenticateView as ReauthenticateByCodeView
from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes.views import GenerateRecoveryCodesView, ViewRecoveryCodesView
from allauth.mfa.signals import authentication_failed, authenticator_used
from allauth.mfa.totp.views import ActivateTOTPView, DeactivateTOTPView
from allauth.mfa.webauthn.forms import (
    AddWebAuthnForm,
    AuthenticateWebAuthnForm,
    EditWebAuthnForm,
    LoginWebAuthnForm,
    ReauthenticateWebAuthnForm,
)
from allauth.mfa.webauthn.views import (
    AddWebAuthnView,
    EditWebAuthnView,
    LoginWebAuthnView,
    ReauthenticateWebAuthnView,
    RemoveWebAuthnView,
)
from django import forms
from django.contrib import messages
from django.db import transaction
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse, reverse_lazy
from django.utils.decorators import method_decorator
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from opsconsole.access import events
from opsconsole.access.choices import Factor
from opsconsole.access.devices import known_device
from opsconsole.access.guessing import give_back, take_guess
from opsconsole.access.models import User
from opsconsole.access.passwords import require_own_password
from opsconsole.access.sessions import end_quietly
from opsconsole.access.sudo import forget_what_was_held_too_long, is_held
from opsconsole.events import recording as audit
from opsconsole.events.models import AuditEvent
from opsconsole.exceptions import Refused
from opsconsole.web.errors import status_of

# How long a code of an app counts, with one that is a step early or late: RFC 6238, 5.2.
CODE_SECONDS = 90


class CodeForm(AuthenticateForm):
    """A code of the app or a recovery code, of which only so many may be guessed."""

    refusal: Refused | None = None

    def __init__(self, *args: Any, request: HttpRequest, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.request = request
        self.fields["code"].widget = forms.TextInput(
            attrs={"autocomplete": "one-time-code", "inputmode": "numeric", "autofocus": True}
        )

    def clean_code(self) -> str:
        try:
            return self._code()
        except Refused as refusal:
            self.refusal = refusal
            raise forms.ValidationError(str(refusal)) from refusal

    def _code(self) -> str:
        name = self.user.get_username()
        guess = take_guess(
            name=name,
            address=self.request.META.get("REMOTE_ADDR", ""),
            device=known_device(self.request, name),
        )
        code: str = super().clean_code()
        _use_once(self.authenticator, code)
        give_back(guess)
        return code


# What the library raises for what no browser sends: it looks at the parts before it is sure of them.
MALFORMED = (AttributeError, LookupError, TypeError, ValueError, struct.error)


class CredentialField(forms.JSONField):
    """What a browser says of a passkey. Django reads JSON, but no number of 5,000 digits of it."""

    widget = forms.HiddenInput

    def to_python(self, value: Any) -> Any:
        try:
            return super().to_python(value)
        except (ValueError, RecursionError) as error:
            raise forms.ValidationError(_("That is no passkey.")) from error

    def bound_data(self, data: Any, initial: Any) -> Any:
        """None of what cannot be read: the browser makes another one for the page that comes back."""
        try:
            return super().bound_data(data, initial)
        except (ValueError, RecursionError):
            return None


class _Credential(forms.Form):
    credential = CredentialField()

    def clean_credential(self) -> Any:
        try:
            return super().clean_credential()  # type: ignore[misc]
        except MALFORMED as error:
            raise forms.ValidationError(_("That is no passkey.")) from error


class PasskeyAsFactorForm(_Credential, AuthenticateWebAuthnForm):
    pass


class PasskeyAloneForm(_Credential, LoginWebAuthnForm):
    pass


class ConfirmingPasskeyForm(_Credential, ReauthenticateWebAuthnForm):
    pass


class ConfirmingCodeForm(CodeForm):
    def save(self) -> None:
        ReauthenticateForm.save(self)


@transaction.atomic
def _use_once(factor: Authenticator, code: str) -> None:
    """Refuse a code of the app that was used already, whichever process looked at it."""
    if factor.type != Factor.APP:
        return
    row = Authenticator.objects.select_for_update().get(pk=factor.pk)
    digits = "".join(code.split())
    used = {c: at for c, at in row.data.get("used", {}).items() if at > time.time() - CODE_SECONDS}
    if digits in used:
        raise forms.ValidationError(_("That code was used already. Wait for the next one."))
    row.data["used"] = used | {digits: time.time()}
    row.save(update_fields=["data"])
    factor.data = row.data


class _Page:
    """A page of one form; a refused one comes back with what was typed, as 422 or as 429."""

    template_name = "opsconsole/form_page.html"
    title: Any = ""
    submit: Any = ""
    back = reverse_lazy("mfa_index")

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context: dict[str, Any] = super().get_context_data(**kwargs)  # type: ignore[misc]
        return context | {"title": self.title, "submit": self.submit, "back": self.back}

    def form_invalid(self, form: forms.Form) -> HttpResponse:
        answer = self.render_to_response(self.get_context_data(form=form))  # type: ignore[attr-defined]
        answer.status_code = _status_of(form)
        return answer


def _status_of(form: forms.Form) -> int:
    refusal: Refused | None = getattr(form, "refusal", None)
    return status_of(refusal) if refusal else 422


# At the sign-in


@method_decorator(transaction.atomic, name="form_valid")
class SecondFactorView(AuthenticateView):
    """After the password, before anybody is signed in."""

    template_name = "opsconsole/second_factor.html"
    webauthn_form_class = PasskeyAsFactorForm

    def get_form_class(self) -> Any:
        return partial(CodeForm, request=self.request)

    def form_invalid(self, form: forms.Form) -> HttpResponse:
        answer = super().form_invalid(form)
        answer.status_code = _status_of(form)
        return answer

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        factors = set(
            Authenticator.objects.filter(user=self.stage.login.user).values_list("type", flat=True)
        )
        return super().get_context_data(**kwargs) | {
            "has_passkey": Factor.PASSKEY in factors,
            "has_app": Factor.APP in factors,
            "person": self.stage.login.user,
        }


@method_decorator(transaction.atomic, name="form_valid")
class PasskeySignInView(LoginWebAuthnView):
    form_class = PasskeyAloneForm

    def form_invalid(self, form: forms.Form) -> HttpResponse:
        messages.error(
            self.request,
            _("That passkey is not known here. Sign in with your password, then add it."),
        )
        return HttpResponseRedirect(reverse("sign-in"))


# To say once more that it is you


class OwnPasswordOnceMoreForm(forms.Form):
    refusal: Refused | None = None
    password = forms.CharField(
        label=gettext_lazy("Your password"),
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password", "autofocus": True}),
    )

    def __init__(self, *args: Any, user: User, request: HttpRequest, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.request = request

    def clean_password(self) -> str:
        given = str(self.cleaned_data["password"])
        try:
            require_own_password(self.request, given)
        except Refused as refusal:
            self.refusal = refusal
            raise forms.ValidationError(str(refusal)) from refusal
        return given


class _ConfirmPage(_Page):
    template_name = "opsconsole/confirm_person.html"
    title = gettext_lazy("Confirm that it is you")
    submit = gettext_lazy("Confirm")
    back = reverse_lazy("home")

    def form_valid(self, form: forms.Form) -> HttpResponse:
        request: Any = self.request  # type: ignore[attr-defined]
        forget_what_was_held_too_long(request)
        with transaction.atomic():
            audit.record(events.CONFIRMED, actor=request.user, about=request.user)
        answer: HttpResponse = super().form_valid(form)  # type: ignore[misc]
        return answer

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        request: Any = self.request  # type: ignore[attr-defined]
        return super().get_context_data(**kwargs) | {"is_held": is_held(request)}


class ConfirmByPasswordView(_ConfirmPage, ReauthenticateView):
    def get_form_class(self) -> Any:
        return partial(OwnPasswordOnceMoreForm, request=self.request)


class ConfirmByCodeView(_ConfirmPage, ReauthenticateByCodeView):
    def get_form_class(self) -> Any:
        return partial(ConfirmingCodeForm, request=self.request)


class ConfirmByPasskeyView(_ConfirmPage, ReauthenticateWebAuthnView):
    form_class = ConfirmingPasskeyForm

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        form = kwargs.get("form") or self.get_form()
        return super().get_context_data(**kwargs) | {"form": form, "is_passkey": True}


# One's own


class FactorsView(IndexView):
    template_name = "opsconsole/factors.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        found = Authenticator.objects.filter(user=self.request.user).order_by("pk")
        by_type: dict[str, list[Authenticator]] = {}
        for factor in found:
            by_type.setdefault(factor.type, []).append(factor)
        codes = by_type.get(Factor.CODES, [])
        return {
            "app": next(iter(by_type.get(Factor.APP, [])), None),
            "passkeys": by_type.get(Factor.PASSKEY, []),
            "codes_left": len(codes[0].wrap().get_unused_codes()) if codes else None,
        }


class _ChangePage(_Page):
    """A page that adds a factor or removes one, and tells the audit trail, or does neither."""

    event: Any
    factor: Factor
    ends_other_sessions = True

    @method_decorator(transaction.atomic)
    def form_valid(self, form: forms.Form) -> HttpResponse:
        data = events.FactorOf(factor=self.factor.value, name=self.name_of(form))
        answer: HttpResponse = super().form_valid(form)  # type: ignore[misc]
        user: Any = self.request.user  # type: ignore[attr-defined]
        audit.record(self.event, actor=user, about=user, data=data)
        if self.ends_other_sessions:
            _end_others(self.request)  # type: ignore[attr-defined]
        return answer

    def name_of(self, form: forms.Form) -> str:
        return ""


def _end_others(request: HttpRequest) -> None:
    """Whoever got in before signs in as it is asked for now. OWASP ASVS 5.0, 7.4.3."""
    user: Any = request.user
    if end_quietly(user, but=str(request.session.session_key)):
        messages.info(request, _("Your other sessions have ended."))


class AddAppView(_ChangePage, ActivateTOTPView):
    template_name = "opsconsole/factor_app.html"
    title = gettext_lazy("Add an authenticator app")
    submit = gettext_lazy("Add the app")
    event, factor = events.FACTOR_ADDED, Factor.APP


class RemoveAppView(_ChangePage, DeactivateTOTPView):
    title = gettext_lazy("Remove the authenticator app")
    submit = gettext_lazy("Remove it")
    event, factor = events.FACTOR_REMOVED, Factor.APP


def _name_field(**about: Any) -> forms.CharField:
    return forms.CharField(label=gettext_lazy("Name"), max_length=60, **about)


class PasskeyForm(AddWebAuthnForm):
    credential = CredentialField()
    name = _name_field(
        required=False,
        help_text=gettext_lazy("What you will know it by, such as Laptop or Blue key."),
    )
    passwordless = forms.BooleanField(
        label=gettext_lazy("Sign in with it alone, without a password"),
        required=False,
        initial=True,
        help_text=gettext_lazy("It then asks for your fingerprint, face or PIN each time."),
    )

    def clean_name(self) -> str:
        return str(self.cleaned_data["name"]) or _("Passkey")

    def clean(self) -> dict[str, Any]:
        try:
            return dict(super().clean())
        except MALFORMED as error:
            raise forms.ValidationError(_("That is no passkey.")) from error


class RenamedPasskeyForm(EditWebAuthnForm):
    name = _name_field()


class AddPasskeyView(_ChangePage, AddWebAuthnView):
    form_class = PasskeyForm
    event, factor = events.FACTOR_ADDED, Factor.PASSKEY
    template_name = "opsconsole/factor_passkey.html"
    title = gettext_lazy("Add a passkey")

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        form = kwargs.get("form") or self.get_form()
        return super().get_context_data(**kwargs) | {
            "form": form,
            "is_number": _is_number(self.request.get_host()),
        }

    def name_of(self, form: forms.Form) -> str:
        return str(form.cleaned_data["name"])


class RenamePasskeyView(_ChangePage, EditWebAuthnView):
    form_class = RenamedPasskeyForm
    ends_other_sessions = False
    event, factor = events.FACTOR_RENAMED, Factor.PASSKEY
    title = gettext_lazy("Rename a passkey")
    submit = gettext_lazy("Rename")
    success_url = reverse_lazy("mfa_index")

    def name_of(self, form: forms.Form) -> str:
        return str(form.cleaned_data["name"])


class RemovePasskeyView(_ChangePage, RemoveWebAuthnView):
    title = gettext_lazy("Remove a passkey")
    submit = gettext_lazy("Remove it")
    success_url = reverse_lazy("mfa_index")
    event, factor = events.FACTOR_REMOVED, Factor.PASSKEY

    def name_of(self, form: forms.Form) -> str:
        return str(self.object.wrap().name)


class CodesView(ViewRecoveryCodesView):
    template_name = "opsconsole/factor_codes.html"


class NewCodesView(_Page, GenerateRecoveryCodesView):
    title = gettext_lazy("Make new recovery codes")
    submit = gettext_lazy("Make new codes")

    @method_decorator(transaction.atomic)
    def form_valid(self, form: forms.Form) -> HttpResponse:
        answer = super().form_valid(form)
        user: Any = self.request.user
        audit.record(events.RECOVERY_CODES_MADE, actor=user, about=user)
        _end_others(self.request)
        return answer


def _is_number(host: str) -> bool:
    """Whether the host of the address is no name, for which no browser makes a passkey."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


@receiver(authentication_failed)
@transaction.atomic
def _record_failure(user: User, **_kwargs: Any) -> None:
    audit.record(events.FACTOR_FAILED, actor=None, about=user, outcome=AuditEvent.Outcome.DENIED)


@receiver(authenticator_used)
@transaction.atomic
def _record_recovery_code(user: User, authenticator: Authenticator, **_kwargs: Any) -> None:
    if authenticator.type == Factor.CODES:
        audit.record(events.RECOVERY_CODE_USED, actor=None, about=user)
