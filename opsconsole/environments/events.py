"""What happens to applications, environments and their targets."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _

from opsconsole.events.catalogue import Audience, Changed, NoData, event


class EnvironmentChanged(Changed):
    """The addresses themselves are never recorded."""

    address_changed: bool = False
    scratch_address_changed: bool = False
    quarantine_address_changed: bool = False


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
