from django.apps import AppConfig


class OpsConsoleConfig(AppConfig):
    name = "opsconsole"
    label = "opsconsole"
    verbose_name = "Ops Console"

    def ready(self) -> None:
        from opsconsole import signals  # noqa: F401  (connects the worker's reports)
