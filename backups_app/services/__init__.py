"""Verbs of restorable copies, one file per noun."""

from backups_app.services.backups import (
    hold_backup,
    open_for_download,
    release_backup,
    request_backup,
    request_verify,
)
from backups_app.services.imports import import_from_storage, import_upload
from backups_app.services.restores import (
    choose_way_back,
    destinations,
    health_around,
    known_to_stay_behind,
    request_check,
    request_drop,
    request_restore,
    request_undo,
)

__all__ = [
    "choose_way_back",
    "destinations",
    "health_around",
    "hold_backup",
    "import_from_storage",
    "import_upload",
    "known_to_stay_behind",
    "open_for_download",
    "release_backup",
    "request_backup",
    "request_check",
    "request_drop",
    "request_restore",
    "request_undo",
    "request_verify",
]
