from django.apps import AppConfig


class BackupsConfig(AppConfig):
    name = "backups_app"
    verbose_name = "Backups"

    def ready(self) -> None:
        from backups_app import panels
        from backups_app.runs import operations, work

        operations.register_all()
        panels.register()
        work.register()
