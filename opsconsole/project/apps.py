from django.apps import AppConfig


class ProjectConfig(AppConfig):
    """Holds the management commands; it has no tables."""

    name = "opsconsole.project"
    label = "project"
