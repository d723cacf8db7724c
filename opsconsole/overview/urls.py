from django.urls import path

from opsconsole.overview import (
    application,
    console_health,
    environment,
    home,
    security_txt,
    settings,
    styleguide,
)

urlpatterns = [
    path("", home.home, name="home"),
    path("find", home.find, name="find"),
    path("health", console_health.console_health, name="console-health"),
    path(".well-known/security.txt", security_txt.security_txt, name="security-txt"),
    path("styleguide", styleguide.styleguide, name="styleguide"),
    path("settings", settings.settings_page, name="settings"),
    path("applications/<slug:application>", application.application_page, name="application"),
    path(
        "applications/<slug:application>/<slug:environment>",
        environment.environment_page,
        name="environment",
    ),
    path(
        "applications/<slug:application>/<slug:environment>/health",
        environment.environment_health,
        name="environment-health",
    ),
]
