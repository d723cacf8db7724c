from django.apps import AppConfig


class OpsConsoleConfig(AppConfig):
    name = "opsconsole"
    label = "opsconsole"
    verbose_name = "Ops Console"

    def ready(self) -> None:
        # Pages tell every event, also of a subject that this process has not recorded yet.
        from opsconsole.access import events as _access  # noqa: F401
        from opsconsole.audit import events as _audit  # noqa: F401
        from opsconsole.environments import events as _environments  # noqa: F401
        from opsconsole.environments.holders import HOLDERS
        from opsconsole.health import events as _health  # noqa: F401
        from opsconsole.health.cli import health_of_run
        from opsconsole.health.services import SAMPLE_HEALTH
        from opsconsole.runs import events as _runs  # noqa: F401
        from opsconsole.runs import reporting  # noqa: F401  (it connects itself)
        from opsconsole.runs.cli import RUN_DOCUMENTS
        from opsconsole.runs.models import holder_of
        from opsconsole.runs.registry import PERIODIC, Periodic
        from opsconsole.web import events as _web  # noqa: F401
        from opsconsole.work import checks  # noqa: F401  (they register themselves)
        from opsconsole.work import events as _work  # noqa: F401

        HOLDERS.append(holder_of)
        RUN_DOCUMENTS.append(health_of_run)
        PERIODIC.append(Periodic(SAMPLE_HEALTH, "HEALTH_SAMPLE_SECONDS", of_environments=True))
