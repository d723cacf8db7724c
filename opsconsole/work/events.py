"""What happens to work that is late."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _
from pydantic import Field

from opsconsole.events.catalogue import Data, event


class WorkRetried(Data):
    work: str = Field(examples=["opsconsole.test_connection"])
    attempts: int = Field(examples=[3])
    last_error: str = Field(examples=["the server does not answer"])


WORK_RETRIED = event(
    "work.retried", _("%(actor)s retried late work: %(object)s."), data=WorkRetried
)
