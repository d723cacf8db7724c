"""What happens to applications, environments and their targets."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _
from pydantic import Field

from opsconsole.events.catalogue import Audience, Changed, Data, NoData, event


class EnvironmentChanged(Changed):
    """The addresses themselves are never recorded."""

    address_changed: bool = False
    scratch_address_changed: bool = False
    quarantine_address_changed: bool = False


class KeyRotated(Data):
    """How many stored secrets were encrypted anew."""

    secrets: int = Field(examples=[7])


APPLICATION_ADDED = event(
    "application.added",
    _("%(actor)s added the application %(object)s."),
    data=Changed,
    seen_by=Audience.CONSOLE,
)
APPLICATION_CHANGED = event(
    "application.changed",
    _("%(actor)s changed the application %(object)s."),
    data=Changed,
    seen_by=Audience.CONSOLE,
)
APPLICATION_ARCHIVED = event(
    "application.archived",
    _("%(actor)s archived the application %(object)s."),
    data=NoData,
    tone="warn",
    seen_by=Audience.CONSOLE,
)
ENVIRONMENT_ADDED = event(
    "environment.added", _("%(actor)s added the environment %(object)s."), data=EnvironmentChanged
)
ENVIRONMENT_CHANGED = event(
    "environment.changed",
    _("%(actor)s changed the settings of %(object)s."),
    data=EnvironmentChanged,
)
ENVIRONMENT_ARCHIVED = event(
    "environment.archived",
    _("%(actor)s archived the environment %(object)s."),
    data=NoData,
    tone="warn",
)
TARGET_TESTED = event(
    "target.tested",
    _("%(actor)s tested the connection to %(environment)s."),
    data=NoData,
    tone="idle",
)
DRAFT_TRIED = event(
    "draft.tried",
    _("%(actor)s had %(object)s tried."),
    data=NoData,
    tone="idle",
    seen_by=Audience.CONSOLE,
)
KEY_ADDED = event(
    "encryption.key_added",
    _("%(actor)s added an encryption key."),
    data=NoData,
    tone="warn",
    seen_by=Audience.CONSOLE,
)
OLDER_KEYS_FORGOTTEN = event(
    "encryption.older_keys_forgotten",
    _("%(actor)s took the older encryption keys away."),
    data=NoData,
    tone="warn",
    seen_by=Audience.CONSOLE,
)
KEY_ROTATED = event(
    "encryption.key_rotated",
    _("%(actor)s rotated the encryption key. Secrets encrypted anew: %(secrets)s."),
    data=KeyRotated,
    tone="warn",
    seen_by=Audience.CONSOLE,
)
