"""What migrations do of the work list, on a worker."""

from __future__ import annotations

import logging
from collections.abc import Callable

from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from migrations_app.reading.observation import observe_target, try_target
from migrations_app.sources.discovery import discover
from opsconsole.environments.drafts import TRY_APPLICATION, TRY_ENVIRONMENT
from opsconsole.environments.models import Draft, Environment, Target
from opsconsole.environments.services import TEST_CONNECTION
from opsconsole.exceptions import AdapterError
from opsconsole.formats import one_line
from opsconsole.work.registry import Arguments, Work, register_work

logger = logging.getLogger(__name__)


def register() -> None:
    register_work(Work(TEST_CONNECTION, _("Test a connection"), test_connection))
    register_work(Work(TRY_ENVIRONMENT, _("Try a new environment"), try_environment))
    register_work(Work(TRY_APPLICATION, _("Look for migrations"), try_application))


def test_connection(arguments: Arguments) -> Callable[[], object]:
    """Reading the target is the test; what is read, or why it cannot be, is kept by that itself."""
    observe_target(
        Target.objects.select_related("environment__application").get(pk=arguments["target"])
    )
    return lambda: None


def try_environment(arguments: Arguments) -> Callable[[], object]:
    """Read the database of a draft as the environment that it may become would be read."""
    return _tried(arguments, _as_read)


def try_application(arguments: Arguments) -> Callable[[], object]:
    """Find the migrations of a draft's repository or folder."""
    return _tried(arguments, _discovered)


def _tried(
    arguments: Arguments, look: Callable[[Draft], tuple[dict[str, object], str]]
) -> Callable[[], object]:
    """What keeps in the draft what was found, unless it was changed or discarded meanwhile."""
    rows = Draft.objects.filter(pk=arguments["draft"], tries=arguments["try"])
    draft = rows.select_related("application").first()
    if draft is None:
        return lambda: None
    began = timezone.now()
    found, error = look(draft)
    return lambda: rows.update(found=found, error=error, tried_at=began)


def _as_read(draft: Draft) -> tuple[dict[str, object], str]:
    environment = Environment(
        application=draft.application,
        name=draft.given.get("name", ""),
        migrations_folder=draft.given.get("migrations_folder", ""),
        is_protected=draft.given.get("is_protected", False),
    )
    sealed = draft.sealed.get("address", "")
    reference = "" if sealed else draft.given.get("address", "")
    return try_target(
        Target(environment=environment, dsn_encrypted=sealed, dsn_reference=reference)
    )


def _discovered(draft: Draft) -> tuple[dict[str, object], str]:
    given = draft.given
    try:
        found = discover(
            given["source"], ref=given.get("ref", ""), sealed=draft.sealed.get("secret", "")
        )
    except AdapterError as error:
        return {}, str(error)
    except Exception as error:
        logger.exception("%s could not be looked into", draft)
        return {}, f"looking crashed: {type(error).__name__}: {one_line(str(error), 300)}"
    return found.stored(), ""
