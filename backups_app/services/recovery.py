"""The recovery kit: what a person needs to restore an environment when the console is gone."""

from __future__ import annotations

import shlex

from django.db import transaction
from django.utils import timezone

from backups_app import events
from backups_app.models import Backup
from backups_app.models.backup import CopyState
from backups_app.services import consent
from opsconsole.access.models import User
from opsconsole.access.permissions import authorize
from opsconsole.access.places import CONSOLE
from opsconsole.environments import secrets
from opsconsole.environments.models import Environment
from opsconsole.events import recording as audit
from opsconsole.exceptions import Refused
from opsconsole.formats import count, counted

NEWEST = 5


def recovery_kit(*, actor: User, environment: Environment, with_key: bool) -> str:
    """Text to print and lock away: archives, where they lie, their checksums, and how to restore.

    `with_key` adds the console's age secret keys, if an archive is encrypted: they open the
    archives of every environment, so they take the right on the console. Audited. Raises Refused
    (forbidden) without the right and (conflict) when no backup is proven.
    """
    authorize(actor, "settings.edit", CONSOLE if with_key else environment)
    consent.require_take_out(actor, [environment])
    backups = list(
        Backup.objects.proven()
        .filter(environment=environment)
        .prefetch_related("copies__storage")[:NEWEST]
    )
    if not backups:
        raise Refused(f"no backup of {environment} is proven: take one first")
    encrypted = any(backup.form.recipients for backup in backups)
    with transaction.atomic():
        audit.record(
            events.KIT_PRINTED,
            actor=actor,
            environment=environment,
            about=environment,
            data=events.KitPrinted(with_key=with_key and encrypted),
        )
    parts = [
        f"Recovery kit of {environment}, {timezone.now():%Y-%m-%d %H:%M} UTC",
        "How to use it: docs/recovery.md of the Ops Console.",
        *(_about(backup) for backup in backups),
    ]
    if encrypted:
        parts.append(_keys(with_key))
    return "\n\n".join(parts) + "\n"


def _about(backup: Backup) -> str:
    server = backup.manifest["server"]
    lines = [
        f"Backup {backup.pk}, taken {backup.taken_at:%Y-%m-%d %H:%M:%S} UTC, "
        f"{backup.proof_level.label}",
        f"  database    {server['database']}, PostgreSQL {server['version']}, {counted(backup.rows, 'row')}",
        f"  sha256      {backup.sha256}",
        f"  size        {counted(backup.size_bytes, 'byte')}, {count(backup.raw_bytes)} unpacked",
        *(
            f"  copy        {copy.storage.address} {shlex.quote(backup.key)}"
            for copy in backup.copies.all()
            if copy.state in CopyState.readable()
        ),
        *(f"  opens with  the secret key of {one}" for one in backup.form.recipients),
    ]
    return "\n".join(lines)


def _keys(with_key: bool) -> str:
    if not with_key:
        return (
            "The secret key of the console is not printed: keys.json of its data folder, or\n"
            "OPSCONSOLE_BACKUP_IDENTITIES, holds it. Print it with --with-key."
        )
    return "\n".join(
        ["Secret keys of the console. Keep them locked away:", *secrets.backup_identities()]
    )
