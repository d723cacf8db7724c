"""What happens to findings, drift and repositories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext_lazy as _
from pydantic import Field

from opsconsole.events.catalogue import Audience, Changed, Data, event


class FindingWaived(Data):
    migration: str = Field(examples=["20250701000000_add_notes"])
    rule: str = Field(examples=["drop-table"])


class WaiverWithdrawn(FindingWaived):
    reason: str = ""


class DriftAcknowledged(Data):
    """Hashes of the schema that was expected and of the live one, and what differs."""

    expected: str = Field(examples=["1f3a"])
    live: str = Field(examples=["9c0d"])
    changes: list[str] = Field(examples=[["+ table notes"]])


class RepositoryChanged(Changed):
    """The secret itself is never recorded."""

    secret_changed: bool = False


class FolderAllowed(Data):
    folder: str = Field(examples=["/srv/checkouts"])


class RepositoryRemoved(Data):
    before: Mapping[str, Any] = Field(examples=[{"url": "https://git.example.com/shop.git"}])


FINDING_WAIVED = event(
    "finding.waived", _("%(actor)s waived the finding %(object)s."), data=FindingWaived, tone="warn"
)
WAIVER_WITHDRAWN = event(
    "finding.waiver_withdrawn",
    _("%(actor)s withdrew the waiver of %(object)s."),
    data=WaiverWithdrawn,
)
LEVELS_SET = event(
    "lint.levels_set",
    _("%(actor)s set what the lint rules do for %(object)s."),
    data=Changed,
    seen_by=Audience.CONSOLE,
)
FOLDER_ALLOWED = event(
    "folder.allowed",
    _("%(actor)s allowed a folder of migrations on the workers."),
    data=FolderAllowed,
    tone="warn",
    seen_by=Audience.CONSOLE,
)
DRIFT_ACKNOWLEDGED = event(
    "drift.acknowledged",
    _("%(actor)s accepted the drift of %(object)s."),
    data=DriftAcknowledged,
    tone="warn",
)
REPOSITORY_ADDED = event(
    "repository.added",
    _("%(actor)s connected a git repository to %(object)s."),
    data=RepositoryChanged,
    seen_by=Audience.CONSOLE,
)
REPOSITORY_CHANGED = event(
    "repository.changed",
    _("%(actor)s changed the git repository of %(object)s."),
    data=RepositoryChanged,
    seen_by=Audience.CONSOLE,
)
REPOSITORY_REMOVED = event(
    "repository.removed",
    _("%(actor)s disconnected the git repository of %(object)s."),
    data=RepositoryRemoved,
    tone="warn",
    seen_by=Audience.CONSOLE,
)
