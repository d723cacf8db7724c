"""Whose consent it takes to take data out of an environment."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress

from django.contrib.auth.models import AnonymousUser

from backups_app.gates import only_its_admins
from backups_app.models import Backup, BackupPolicy, Storage
from backups_app.stores.places import Place, place_of
from opsconsole.access.models import User
from opsconsole.access.permissions import can
from opsconsole.environments.models import Environment
from opsconsole.exceptions import AdapterError, Kind, Refused


def require_take_out(actor: User | None, sources: Iterable[Environment]) -> None:
    """Raise Refused (forbidden), naming the environment, unless the actor may take out each one's
    data."""
    for source in sources:
        if not can(actor or AnonymousUser(), "data.take_out", source):
            raise Refused(only_its_admins(str(source)), kind=Kind.FORBIDDEN)


def require_restore(actor: User | None, backup: Backup, environment: Environment) -> None:
    """Raise Refused (forbidden) when data would go elsewhere unmasked without the consent of its
    environment.

    A masking script is the consent to what it leaves: only that environment's admins can write one.
    """
    if not allows_restore(actor, backup, environment):
        require_take_out(actor, [backup.environment])


def allows_restore(actor: User | None, backup: Backup, environment: Environment) -> bool:
    """Whether a restore stays where the data is from, or that environment consents to it."""
    source = backup.environment
    return (
        source == environment
        or masks(source)
        or can(actor or AnonymousUser(), "data.take_out", source)
    )


def masks(source: Environment) -> bool:
    """Whether data of this environment is masked wherever it is restored."""
    return bool(BackupPolicy.objects.of(source).masking_sql.strip())


def require_archive(
    actor: User | None, environment: Environment, storage: Storage, key: str
) -> None:
    """Raise Refused (forbidden) for an archive under the folder of an environment not the actor's.

    Raises AdapterError for a key that leads out of the storage.
    """
    place = place_of(storage.address, key)
    require_take_out(actor, (e for e in _owners_of(place) if e.pk != environment.pk))


def require_bytes(actor: User | None, environment: Environment, sha256: str) -> None:
    """The same for an archive that is, byte for byte, a backup of another environment."""
    known = Backup.objects.filter(sha256=sha256).exclude(environment=environment)
    require_take_out(
        actor, [backup.environment for backup in known.select_related("environment__application")]
    )


def _owners_of(place: Place) -> Iterator[Environment]:
    """Environments in whose folder something lies, in any storage, also by a former name."""
    folders: dict[int, set[str]] = defaultdict(set)
    for environment_id, key in Backup.objects.values_list("environment_id", "key"):
        folders[environment_id].add(key.rpartition("/")[0])
    storages = list(Storage.objects.all())
    for environment in Environment.objects.select_related("application"):
        own = {environment.path, *folders[environment.pk]} - {""}
        if any(_lies_in(place, storage, folder) for storage in storages for folder in own):
            yield environment


def _lies_in(place: Place, storage: Storage, folder: str) -> bool:
    with suppress(AdapterError):
        return place.lies_in(place_of(storage.address, folder))
    return False
