"""Which store a URL means."""

from __future__ import annotations

from os.path import samestat
from pathlib import Path

from backups_app.stores.kinds import Address, Credentials, Store
from backups_app.stores.local import LocalStore
from backups_app.stores.objects import ObjectStore
from opsconsole.exceptions import AdapterError
from opsconsole.outgoing import CallPolicy, Deadline, resolve
from opsconsole.url import split_url

RESOLVE_SECONDS = 10


def open_store(url: str, credentials: Credentials, policy: CallPolicy | None = None) -> Store:
    """The store at a URL, which calls what `policy` (without one, the default) lets it.

    Opening touches nothing yet; raises AdapterError for a bad URL.
    """
    address = Address.parse(url)
    if address.scheme == "file":
        return LocalStore(address.path)
    return ObjectStore(address, credentials, policy or CallPolicy())


def require_callable(url: str, policy: CallPolicy) -> None:
    """Raise AdapterError unless the console may call a storage's endpoint, as it resolves now."""
    endpoint = split_url(Address.parse(url).endpoint)
    if not endpoint.hostname:
        return
    port = endpoint.port or (443 if endpoint.scheme == "https" else 80)
    resolve(endpoint.hostname, port, policy=policy, deadline=Deadline(RESOLVE_SECONDS))


def require_elsewhere(url: str, home: Path, backups: Path) -> None:
    """Raise AdapterError for a folder in the console's data, but for that of its backups.

    Told by the folders themselves, so that no link and no mount leads around it.
    """
    address = Address.parse(url)
    if address.scheme != "file":
        return
    root = Path(address.path)
    if _lies_in(root, home) and not _lies_in(root, backups):
        raise AdapterError("the folder is part of the console's own data: give another one")


def _lies_in(path: Path, folder: Path) -> bool:
    try:
        whole = path.resolve()
        own = folder.stat()
        return any(samestat(each.stat(), own) for each in (whole, *whole.parents) if each.exists())
    except OSError:
        return False
