"""What happens to backups, storages and replaced databases."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _
from pydantic import Field

from opsconsole.events.catalogue import Audience, Changed, Data, NoData, event


class BackupHeld(Data):
    """`until` is a moment, or "released": then the hold has no end."""

    until: str = Field(examples=["released"])


class BackupFile(Data):
    key: str = Field(examples=["shop/staging/1.dump"])


class CopyDeleted(BackupFile):
    storage: str = Field(examples=["s3://bucket/prefix"])


class BackupDeleted(BackupFile):
    size_bytes: int | None = None


class StorageChanged(Changed):
    """The secret itself is never recorded."""

    secret_changed: bool = False


class DropRequested(Data):
    size_bytes: int | None = None


class ReplacedDropped(DropRequested):
    requested_by: str = ""


class KitPrinted(Data):
    with_key: bool = False


BACKUP_HELD = event("backup.held", _("%(actor)s put a hold on %(object)s."), data=BackupHeld)
BACKUP_RELEASED = event(
    "backup.released", _("%(actor)s released the hold on %(object)s."), data=NoData, tone="warn"
)
BACKUP_DOWNLOADED = event(
    "backup.downloaded", _("%(actor)s downloaded %(object)s."), data=BackupFile, tone="warn"
)
COPY_DELETED = event(
    "backup.copy_deleted",
    _("%(actor)s deleted the copy of %(object)s in %(storage)s."),
    data=CopyDeleted,
    tone="warn",
)
BACKUP_DELETED = event(
    "backup.deleted", _("%(actor)s deleted %(object)s."), data=BackupDeleted, tone="warn"
)
POLICY_CHANGED = event(
    "backup_policy.changed", _("%(actor)s changed the %(object)s."), data=Changed
)
STORAGE_ADDED = event(
    "storage.added",
    _("%(actor)s added the storage %(object)s."),
    data=StorageChanged,
    seen_by=Audience.CONSOLE,
)
STORAGE_CHANGED = event(
    "storage.changed",
    _("%(actor)s changed the storage %(object)s."),
    data=StorageChanged,
    seen_by=Audience.CONSOLE,
)
STORAGE_TESTED = event(
    "storage.tested",
    _("%(actor)s tested the storage %(object)s."),
    data=NoData,
    tone="idle",
    seen_by=Audience.CONSOLE,
)
STORAGE_RETIRED = event(
    "storage.retired",
    _("%(actor)s retired the storage %(object)s."),
    data=NoData,
    tone="warn",
    seen_by=Audience.CONSOLE,
)
RESTORE_CHECKED = event(
    "restore.checked",
    _("%(actor)s checked a restore of %(object)s into %(environment)s."),
    data=NoData,
    tone="idle",
)
DROP_REQUESTED = event(
    "replaced.drop_requested",
    _("%(actor)s asked to drop the replaced database %(object)s."),
    data=DropRequested,
    tone="warn",
)
REPLACED_DROPPED = event(
    "replaced.dropped",
    _("%(actor)s dropped the replaced database %(object)s."),
    data=ReplacedDropped,
    tone="warn",
)
KIT_PRINTED = event(
    "recovery_kit.printed",
    _("%(actor)s printed the recovery kit of %(object)s."),
    data=KitPrinted,
    tone="warn",
)
