from backups_app.models.backup import Backup, BackupCopy, ReplacedDatabase, RestoreCheck
from backups_app.models.policy import BackupPolicy, ScheduledOccurrence
from backups_app.models.storage import Storage

__all__ = [
    "Backup",
    "BackupCopy",
    "BackupPolicy",
    "ReplacedDatabase",
    "RestoreCheck",
    "ScheduledOccurrence",
    "Storage",
]
