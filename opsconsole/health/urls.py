from django.urls import path

from opsconsole.health import views

urlpatterns = [
    path(
        "settings/environments/<int:environment_id>/checks/add",
        views.edit_health_check,
        name="health-check-add",
    ),
    path(
        "settings/environments/<int:environment_id>/checks/<int:pk>",
        views.edit_health_check,
        name="health-check-edit",
    ),
    path("settings/checks/<int:pk>/delete", views.remove_health_check, name="health-check-delete"),
    path(
        "applications/<slug:application>/<slug:environment>/health/check",
        views.check_health,
        name="health-check-now",
    ),
]
