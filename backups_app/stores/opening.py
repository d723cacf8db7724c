"""Which store a URL means."""

from __future__ import annotations

from backups_app.stores.kinds import Address, Credentials, Store
from backups_app.stores.local import LocalStore
from backups_app.stores.objects import ObjectStore


def open_store(url: str, credentials: Credentials) -> Store:
    """The store at a URL. Opening touches nothing yet; raises AdapterError for a bad URL."""
    address = Address.parse(url)
    if address.scheme == "file":
        return LocalStore(address.path)
    return ObjectStore(address, credentials)
