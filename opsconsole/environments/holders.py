"""What keeps an environment from being changed, told by whoever can keep it."""

from __future__ import annotations

from collections.abc import Callable

from django.utils.translation import gettext as _

from opsconsole.environments.models import Target
from opsconsole.exceptions import Refused

# Each answers with the name of what holds the environment now, "" for nothing.
HOLDERS: list[Callable[[Target], str]] = []


def require_idle(target: Target) -> None:
    """Raise Refused while something holds the environment's database."""
    for holder_of in HOLDERS:
        if holder := holder_of(target):
            raise Refused(
                _("%(run)s holds %(where)s: wait for its end.")
                % {"run": holder, "where": target.environment}
            )
