from django.apps import AppConfig


class BackupsConfig(AppConfig):
    name = "backups_app"
    verbose_name = "Backups"

    def ready(self) -> None:
        from backups_app import events, panels  # noqa: F401  (events declare themselves)
        from backups_app.runs import operations, work
        from backups_app.services.policies import back_up_nightly
        from opsconsole.events.recording import subscribe

        subscribe(back_up_nightly)
        operations.register_all()
        panels.register()
        work.register()
