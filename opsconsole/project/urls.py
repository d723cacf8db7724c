from django.urls import include, path

from opsconsole.project.moved import removal

handler400 = "opsconsole.web.errors.bad_request"
handler403 = "opsconsole.web.errors.forbidden"
handler404 = "opsconsole.web.errors.not_found"
handler500 = "opsconsole.web.errors.broken"

urlpatterns = [
    path("", include("opsconsole.overview.urls")),
    path("", include("opsconsole.audit.urls")),
    path("", include("opsconsole.health.urls")),
    path("", include("opsconsole.runs.urls")),
    path("", include("opsconsole.environments.urls")),
    path("", include("opsconsole.work.urls")),
    path("", include("opsconsole.access.urls")),
    path("", include("backups_app.urls")),
    path("", include("migrations_app.urls")),
    path("settings/remove/<slug:thing>/<int:pk>", removal, name="settings-remove"),
]
