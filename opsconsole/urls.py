from django.urls import path

from opsconsole.views import health

urlpatterns = [
    path("health", health.console_health, name="console-health"),
]
