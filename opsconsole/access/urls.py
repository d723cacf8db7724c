from django.urls import path

from opsconsole.access import passwords, views
from opsconsole.access.sign_in import SignInView, SignOutView

urlpatterns = [
    path("sign-in", SignInView.as_view(), name="sign-in"),
    path("sign-out", SignOutView.as_view(), name="sign-out"),
    path(
        "sign-in/link/<uidb64>/<token>", passwords.PasswordLinkView.as_view(), name="password-link"
    ),
    path("preferences/password", passwords.change_password, name="password-change"),
    path("preferences", views.preferences, name="preferences"),
    path("settings/people/add", views.add_person, name="person-add"),
    path("settings/people/<int:pk>/let-in", views.let_in, name="person-let-in"),
    path("settings/people/<int:pk>/lock-out", views.lock_out, name="person-lock-out"),
    path("settings/people/<int:pk>/password-link", views.make_password_link, name="person-link"),
    path("settings/roles/add", views.grant_role, name="role-add"),
    path("settings/roles/<int:pk>/revoke", views.revoke_role, name="role-revoke"),
]
