from django.apps import AppConfig


class OpsConsoleConfig(AppConfig):
    name = "opsconsole"
    label = "opsconsole"
    verbose_name = "Ops Console"

    def ready(self) -> None:
        from opsconsole.runs import reporting as signals  # noqa: F401  (they connect themselves)
