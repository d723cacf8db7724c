from django.apps import AppConfig


class BackupsConfig(AppConfig):
    name = "backups_app"
    verbose_name = "Backups"

    def ready(self) -> None:
        from backups_app import events, panels  # noqa: F401  (events declare themselves)
        from backups_app.runs import operations, work

        operations.register_all()
        panels.register()
        work.register()
