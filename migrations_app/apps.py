from django.apps import AppConfig


class MigrationsConfig(AppConfig):
    name = "migrations_app"
    verbose_name = "Migrations"

    def ready(self) -> None:
        from migrations_app import events, panels  # noqa: F401  (events declare themselves)
        from migrations_app.runs import operations, work

        operations.register_all()
        panels.register()
        work.register()
