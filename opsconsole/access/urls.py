from django.contrib.auth.decorators import login_not_required
from django.urls import path

from opsconsole.access import passwords, second_factors, views
from opsconsole.access.sign_in import SignInView, SignOutView

urlpatterns = [
    path("sign-in", SignInView.as_view(), name="sign-in"),
    # Names with an underscore are those that django-allauth looks for.
    path("sign-in", SignInView.as_view(), name="account_login"),
    path("sign-in/code", second_factors.SecondFactorView.as_view(), name="mfa_authenticate"),
    path(
        "sign-in/passkey",
        login_not_required(second_factors.PasskeySignInView.as_view()),
        name="mfa_login_webauthn",
    ),
    path("sign-out", SignOutView.as_view(), name="sign-out"),
    path(
        "sign-in/link/<uidb64>/<token>", passwords.PasswordLinkView.as_view(), name="password-link"
    ),
    path("preferences/password", passwords.change_password, name="password-change"),
    path("preferences/factors", second_factors.FactorsView.as_view(), name="mfa_index"),
    path("preferences/factors/app", second_factors.AddAppView.as_view(), name="mfa_activate_totp"),
    path(
        "preferences/factors/app/remove",
        second_factors.RemoveAppView.as_view(),
        name="mfa_deactivate_totp",
    ),
    path(
        "preferences/factors/passkeys/add",
        second_factors.AddPasskeyView.as_view(),
        name="mfa_add_webauthn",
    ),
    path(
        "preferences/factors/passkeys/<int:pk>",
        second_factors.RenamePasskeyView.as_view(),
        name="mfa_edit_webauthn",
    ),
    path(
        "preferences/factors/passkeys/<int:pk>/remove",
        second_factors.RemovePasskeyView.as_view(),
        name="mfa_remove_webauthn",
    ),
    path(
        "preferences/factors/codes",
        second_factors.CodesView.as_view(),
        name="mfa_view_recovery_codes",
    ),
    path(
        "preferences/factors/codes/new",
        second_factors.NewCodesView.as_view(),
        name="mfa_generate_recovery_codes",
    ),
    path(
        "preferences/confirm",
        second_factors.ConfirmByPasswordView.as_view(),
        name="account_reauthenticate",
    ),
    path(
        "preferences/confirm/code",
        second_factors.ConfirmByCodeView.as_view(),
        name="mfa_reauthenticate",
    ),
    path(
        "preferences/confirm/passkey",
        second_factors.ConfirmByPasskeyView.as_view(),
        name="mfa_reauthenticate_webauthn",
    ),
    path("preferences/sessions", views.own_sessions, name="sessions"),
    path("preferences/sessions/end-others", views.end_others, name="sessions-end-others"),
    path("preferences/sessions/<int:pk>/end", views.end_own, name="session-end"),
    path("preferences", views.preferences, name="preferences"),
    path("settings/people/add", views.add_person, name="person-add"),
    path("settings/people/<int:pk>/let-in", views.let_in, name="person-let-in"),
    path("settings/people/<int:pk>/lock-out", views.lock_out, name="person-lock-out"),
    path("settings/people/<int:pk>/password-link", views.make_password_link, name="person-link"),
    path("settings/people/<int:pk>/take-factors", views.take_factors, name="person-factors"),
    path("settings/people/<int:pk>/sessions", views.sessions_of, name="person-sessions"),
    path("settings/people/<int:pk>/sessions/end", views.end_all_of, name="person-sessions-end"),
    path("settings/roles/add", views.grant_role, name="role-add"),
    path("settings/roles/<int:pk>/revoke", views.revoke_role, name="role-revoke"),
]
