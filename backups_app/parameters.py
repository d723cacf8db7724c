"""What can be asked of backups, as the browser, the command line and the schedule ask it."""

from __future__ import annotations

from typing import ClassVar

from backups_app.choices import BackupReason, ProofLevel
from opsconsole.runs.documents import Parameters, Stored


class BackupParameters(Parameters):
    operation: ClassVar[str] = "backup"
    reason: BackupReason = BackupReason.MANUAL


class OfBackup(Parameters):
    """Whatever is done with one backup, by its id."""

    backup: int


class ProveParameters(OfBackup):
    operation: ClassVar[str] = "prove"
    level: ProofLevel = ProofLevel.CONTENT


class RestoreParameters(OfBackup):
    """`backs_up_first`: the live database is backed up, and that backup proven, before the swap.
    `consents` name what belongs to the live database and may stay behind."""

    operation: ClassVar[str] = "restore"
    version: ClassVar[int] = 2
    backs_up_first: bool = False
    consents: tuple[str, ...] = ()


class RestoreAsParameters(OfBackup):
    """`database` is the name of the new database, on the environment's own server."""

    operation: ClassVar[str] = "restore_as"
    database: str


class UndoParameters(Parameters):
    """`replaced` is the id of the replaced database that becomes the live one again.
    `consents` name what belongs to the live one and may stay behind."""

    operation: ClassVar[str] = "undo"
    version: ClassVar[int] = 2
    replaced: int
    consents: tuple[str, ...] = ()

    @classmethod
    def upgraded(cls, data: Stored, version: int) -> Stored:
        return data if version else {"replaced": data["undo"]}


class ImportParameters(Parameters):
    """The archive lies at `key` of the storage with the id `storage`.

    `name` is what its file was called; an upload is deleted when the run is over.
    """

    operation: ClassVar[str] = "import"
    storage: int
    key: str
    name: str = ""
    is_upload: bool = False


class PruneParameters(Parameters):
    operation: ClassVar[str] = "prune"
