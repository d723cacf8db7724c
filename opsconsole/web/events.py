"""What leaves the console as a file."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _
from pydantic import Field

from opsconsole.events.catalogue import Data, event


class FileDownloaded(Data):
    """The file's name, and how its content was chosen, by the name of the filter."""

    file: str = Field(examples=["run-7.log"])
    filters: dict[str, str] = {}


FILE_DOWNLOADED = event(
    "file.downloaded", _("%(actor)s downloaded %(file)s."), data=FileDownloaded, tone="idle"
)
