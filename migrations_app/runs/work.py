"""What migrations do of the work list, on a worker."""

from __future__ import annotations

from collections.abc import Callable

from django.utils.translation import gettext_lazy as _

from migrations_app.reading.observation import observe_target
from opsconsole.environments.models import Target
from opsconsole.environments.services import TEST_CONNECTION
from opsconsole.work.registry import Arguments, Work, register_work


def register() -> None:
    register_work(Work(TEST_CONNECTION, _("Test a connection"), test_connection))


def test_connection(arguments: Arguments) -> Callable[[], object]:
    """Reading the target is the test; what is read, or why it cannot be, is kept by that itself."""
    observe_target(
        Target.objects.select_related("environment__application").get(pk=arguments["target"])
    )
    return lambda: None
