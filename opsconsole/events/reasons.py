"""Why somebody does something: kept with the act, and asked for where the act can do harm."""

from __future__ import annotations

from django.utils.translation import gettext as _

from opsconsole.exceptions import Kind, Refused

LONGEST = 500


def check_reason(reason: str) -> None:
    """Raise Refused (invalid) for a reason of more characters than are kept."""
    if len(reason) > LONGEST:
        raise Refused(
            _("Enter a reason of at most %(longest)s characters.") % {"longest": LONGEST},
            kind=Kind.INVALID,
            field="reason",
        )


def require_reason(reason: str) -> None:
    """The same, also for none."""
    if not reason.strip():
        raise Refused(_("Enter a reason."), kind=Kind.INVALID, field="reason")
    check_reason(reason)
