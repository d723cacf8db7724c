"""What django-allauth asks of the console: where to go, what to say, and how secrets are kept."""

from __future__ import annotations

from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.mfa.adapter import DefaultMFAAdapter
from cryptography.fernet import InvalidToken
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _

from opsconsole.access.sealing import sealer
from opsconsole.access.sudo import has_just_signed_in
from opsconsole.exceptions import Refused

FACTORS = b"opsconsole.second-factors"


class AccountAdapter(DefaultAccountAdapter):
    def is_open_for_signup(self, request: HttpRequest) -> bool:
        """Nobody lets themselves in: an admin adds people."""
        return False

    def add_message(self, *_args: Any, **_kwargs: Any) -> None:
        """The console's own pages say what happened."""

    def login(self, request: HttpRequest, user: Any) -> None:
        """The last step of every sign-in: they may have been locked out since the first one."""
        if not user.is_active:
            raise ImmediateHttpResponse(self.respond_user_inactive(request, user))
        super().login(request, user)

    def is_reauthentication_required(self, *, app: str, **kwargs: Any) -> bool:
        """Of the library's own pages, by the rule of sudo mode."""
        return not has_just_signed_in(self.request)

    def respond_user_inactive(self, request: HttpRequest, user: Any) -> HttpResponse:
        messages.error(request, _("You may not sign in. Ask an admin to let you back in."))
        return redirect("sign-in")


class FactorsAdapter(DefaultMFAAdapter):
    def encrypt(self, text: str) -> str:
        return sealer(FACTORS).encrypt(text.encode()).decode()

    def decrypt(self, encrypted_text: str) -> str:
        """Raises Refused when the console's SECRET_KEY is not the one that it was encrypted under."""
        try:
            return sealer(FACTORS).decrypt(encrypted_text.encode()).decode()
        except InvalidToken:
            raise Refused(
                _(
                    "The console's SECRET_KEY has changed, so that it cannot read your second "
                    "factors any more. Ask an admin to take them away, and add them again."
                )
            ) from None

    def get_totp_label(self, user: Any) -> str:
        return str(user.get_username())

    def generate_authenticator_name(self, user: Any, type: Any) -> str:
        return ""
