from django.urls import include, path

from opsconsole.access import sign_in
from opsconsole.access.views import add_person, grant_role, let_in, preferences
from opsconsole.audit import views as audit
from opsconsole.environments.views import (
    connection_test,
    edit_application,
    edit_environment,
    test_connection,
)
from opsconsole.health.views import check_health, edit_health_check
from opsconsole.overview import application as applications
from opsconsole.overview import console_health as health
from opsconsole.overview import environment as environments
from opsconsole.overview import home, settings
from opsconsole.runs import views as runs
from opsconsole.work import views as work

handler400 = "opsconsole.web.errors.bad_request"
handler403 = "opsconsole.web.errors.forbidden"
handler404 = "opsconsole.web.errors.not_found"
handler500 = "opsconsole.web.errors.broken"

urlpatterns = [
    path("", home.home, name="home"),
    path("find", home.find, name="find"),
    path("health", health.console_health, name="console-health"),
    path("sign-in", sign_in.SignInView.as_view(), name="sign-in"),
    path("sign-out", sign_in.SignOutView.as_view(), name="sign-out"),
    path("preferences", preferences, name="preferences"),
    path("runs", runs.run_list, name="runs"),
    path("runs/<int:run_id>", runs.run_page, name="run"),
    path("runs/<int:run_id>/status", runs.run_status, name="run-status"),
    path("runs/<int:run_id>/rest", runs.run_rest, name="run-rest"),
    path("runs/<int:run_id>/log", runs.run_log_tail, name="run-log"),
    path("runs/<int:run_id>/log.txt", runs.run_log_download, name="run-log-download"),
    path("runs/<int:run_id>/cancel", runs.cancel, name="run-cancel"),
    path("runs/<int:run_id>/decide", runs.decide, name="run-decide"),
    path("work/<int:pk>/retry", work.retry, name="work-retry"),
    path("audit", audit.audit_list, name="audit"),
    path("audit/<int:event_id>", audit.audit_event, name="audit-event"),
    path("audit.csv", audit.audit_csv, name="audit-csv"),
    path("settings", settings.settings_page, name="settings"),
    path("settings/applications/add", edit_application, name="application-add"),
    path("settings/applications/<int:pk>", edit_application, name="application-edit"),
    path(
        "settings/applications/<int:application_id>/environments/add",
        edit_environment,
        name="environment-add",
    ),
    path(
        "settings/applications/<int:application_id>/environments/<int:pk>",
        edit_environment,
        name="environment-edit",
    ),
    path("settings/connections/<int:pk>", connection_test, name="connection-test"),
    path("settings/connections/<int:pk>/test", test_connection, name="test-connection"),
    path(
        "settings/environments/<int:environment_id>/checks/add",
        edit_health_check,
        name="health-check-add",
    ),
    path(
        "settings/environments/<int:environment_id>/checks/<int:pk>",
        edit_health_check,
        name="health-check-edit",
    ),
    path("settings/people/add", add_person, name="person-add"),
    path("settings/people/<int:pk>/let-in", let_in, name="person-let-in"),
    path("settings/roles/add", grant_role, name="role-add"),
    path("settings/remove/<slug:thing>/<int:pk>", settings.remove, name="settings-remove"),
    path("", include("backups_app.urls")),
    path("", include("migrations_app.urls")),
    path("applications/<slug:application>", applications.application_page, name="application"),
    path(
        "applications/<slug:application>/<slug:environment>",
        environments.environment_page,
        name="environment",
    ),
    path(
        "applications/<slug:application>/<slug:environment>/health",
        environments.environment_health,
        name="environment-health",
    ),
    path(
        "applications/<slug:application>/<slug:environment>/health/check",
        check_health,
        name="health-check-now",
    ),
]
