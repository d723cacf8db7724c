from django.apps import AppConfig


class ProjectConfig(AppConfig):
    """Holds the management commands; it has no tables."""

    name = "opsconsole.project"
    label = "project"

    def ready(self) -> None:
        from opsconsole.project import (  # noqa: F401  (they declare and register themselves)
            checks,
            events,
        )
