from django.apps import AppConfig


class OpsConsoleConfig(AppConfig):
    name = "opsconsole"
    label = "opsconsole"
    verbose_name = "Ops Console"

    def ready(self) -> None:
        from opsconsole.environments.holders import HOLDERS
        from opsconsole.runs import reporting  # noqa: F401  (it connects itself)
        from opsconsole.runs.models import holder_of
        from opsconsole.work import checks  # noqa: F401  (they register themselves)

        HOLDERS.append(holder_of)
