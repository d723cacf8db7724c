"""Pages on which people set their password: their own, or by a link that an admin handed them."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth import authenticate, update_session_auth_hash
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.forms import PasswordChangeForm, SetPasswordForm
from django.contrib.auth.views import PasswordResetConfirmView
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse_lazy
from django.utils.decorators import method_decorator
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.debug import sensitive_post_parameters

from opsconsole.access import password_links, people
from opsconsole.access.devices import remember_device
from opsconsole.access.http import ConsoleRequest
from opsconsole.access.models import User
from opsconsole.web.forms import Given, act_on


def require_own_password(request: HttpRequest, given: str) -> None:
    """Raises ValidationError for another password, and Refused (too many) as the sign-in does."""
    name = request.user.get_username()
    if authenticate(request, username=name, password=given) is None:
        raise forms.ValidationError(_("That is not your current password."))


class OwnPasswordForm(PasswordChangeForm):
    """The old password is looked at as at the sign-in: so many guesses and no more."""

    def __init__(self, request: ConsoleRequest, *args: Any, **kwargs: Any) -> None:
        super().__init__(request.user, *args, **kwargs)
        self.request: HttpRequest = request
        self.fields["old_password"].label = gettext_lazy("Current password")

    def clean_old_password(self) -> str:
        given = str(self.cleaned_data["old_password"])
        require_own_password(self.request, given)
        return given


@sensitive_post_parameters()
def change_password(request: ConsoleRequest) -> HttpResponse:
    """The person's own password; every other session of theirs ends."""
    form = OwnPasswordForm(request, request.POST or None)

    def act(given: Given) -> HttpResponse:
        key = str(request.session.session_key)
        people.change_password(user=request.user, password=given["new_password1"], but=key)
        update_session_auth_hash(request, request.user)
        messages.success(request, _("Your password is changed. Your other sessions have ended."))
        return redirect("preferences")

    return act_on(request, form, act, title=_("Change your password"), back="preferences")


class LinkedPasswordForm(SetPasswordForm):
    def save(self, commit: bool = True) -> Any:
        user: Any = self.user
        people.set_password_by_link(user=user, password=self.cleaned_data["new_password1"])
        return user


@method_decorator(login_not_required, name="dispatch")
class PasswordLinkView(PasswordResetConfirmView):
    """Django's page behind a link: the token moves into the session, out of what is logged."""

    template_name = "opsconsole/password_link.html"
    form_class = LinkedPasswordForm
    token_generator = password_links.TOKENS
    reset_url_token = "new"  # noqa: S105
    success_url = reverse_lazy("sign-in")

    def dispatch(self, *args: Any, **kwargs: Any) -> HttpResponseBase:
        answer = super().dispatch(*args, **kwargs)
        if answer.status_code == 200 and not self.validlink:
            answer.status_code = 404
        return answer

    def get_user(self, uidb64: str) -> User | None:
        user: Any = super().get_user(uidb64)
        return user if user and user.is_active else None

    def form_valid(self, form: SetPasswordForm) -> HttpResponse:
        answer = super().form_valid(form)
        user: Any = form.user
        remember_device(answer, user)
        messages.success(self.request, _("Your password is set. Sign in with it."))
        return answer

    def form_invalid(self, form: SetPasswordForm) -> HttpResponse:
        answer = super().form_invalid(form)
        answer.status_code = 422
        return answer
