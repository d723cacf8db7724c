from django.apps import AppConfig


class BackupsConfig(AppConfig):
    name = "backups_app"
    verbose_name = "Backups"

    def ready(self) -> None:
        from backups_app import operations, panels, work

        operations.register_all()
        panels.register()
        work.register()
