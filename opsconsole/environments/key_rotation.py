"""Encrypt what is stored with the newest key, while the console works on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from django.apps import apps
from django.conf import settings
from django.db import models, transaction

from opsconsole.access.models import User
from opsconsole.access.permissions import authorize
from opsconsole.access.places import CONSOLE
from opsconsole.environments import events
from opsconsole.environments.models import Draft
from opsconsole.environments.secrets import with_newest_key
from opsconsole.events import recording as audit
from opsconsole.exceptions import AdapterError, Refused
from opsconsole.formats import counted

# Whoever seals with an older key meanwhile is a process that will soon have been restarted.
ROUNDS = 10


@dataclass
class Rotation:
    """How many were encrypted anew, and what the console holds that none of its keys opens."""

    renewed: int = 0
    lost: list[str] = field(default_factory=list)


def sealed_fields() -> list[tuple[type[models.Model], str]]:
    """Every field of the console that holds sealed text, or a dictionary of it."""
    found: list[tuple[type[models.Model], str]] = [
        (model, each.name)
        for model in apps.get_models()
        for each in model._meta.concrete_fields
        if each.name.endswith("_encrypted")
    ]
    return [*found, (Draft, "sealed")]


def rotate_keys(*, actor: User) -> Rotation:
    """Encrypt with the newest key what is under an older one, all of it or nothing; audited.

    Others may read and write meanwhile: a value that changed since it was read is left, and found
    by the next round. What no key opens stays as it is. Raises Refused without the right, without
    a key, and when a process goes on sealing with an older one.
    """
    authorize(actor, "settings.edit", CONSOLE)
    rotation = Rotation()
    with transaction.atomic():
        _renew_until_all_are(rotation)
        if rotation.renewed:
            data = events.KeyRotated(secrets=rotation.renewed)
            audit.record(events.KEY_ROTATED, actor=actor, data=data)
    return rotation


def add_key(*, actor: User) -> None:
    """Put a new key in front of those in the console's data folder, for processes that start now.

    Raises Refused without the right, and where the keys come from the process's environment.
    """
    _require_own_keys(actor)
    with transaction.atomic():
        audit.record(events.KEY_ADDED, actor=actor)
        settings.OPSCONSOLE_HOME.add_encryption_key()


def forget_older_keys(*, actor: User) -> int:
    """Leave only the newest key in the console's data folder; returns how many others were there.

    Raises Refused as `add_key` does, and while something is encrypted with one of them.
    """
    _require_own_keys(actor)
    if left := _count_under_older_keys():
        raise Refused(f"{counted(left, 'secret')} would be lost: `ops keys rotate` comes first")
    older = len(settings.ENCRYPTION_KEYS) - 1
    if older:
        with transaction.atomic():
            audit.record(events.OLDER_KEYS_FORGOTTEN, actor=actor)
            settings.OPSCONSOLE_HOME.keep_newest_encryption_key()
    return older


def _require_own_keys(actor: User) -> None:
    authorize(actor, "settings.edit", CONSOLE)
    if settings.OPSCONSOLE_HOME.read_keys().encryption_keys != settings.ENCRYPTION_KEYS:
        raise Refused(
            "the keys are those of OPSCONSOLE_ENCRYPTION_KEYS: change them there, the newest first"
        )


def _count_under_older_keys() -> int:
    """How many secrets the newest key does not open, and an older one does."""
    return sum(_changes(old, new) for *_where, old, new in _renewed([]))


def _renew_until_all_are(rotation: Rotation) -> None:
    for _round in range(ROUNDS):
        rotation.lost = []
        if not _renew_all(rotation):
            return
    raise Refused("something still encrypts with an older key: restart all of the console")


def _renew_all(rotation: Rotation) -> bool:
    """Whether there was anything to do."""
    found = False
    for model, name, key, old, new in _renewed(rotation.lost):
        if old != new:
            found = True
            same = model._base_manager.filter(pk=key, **{name: old})
            if same.update(**{name: new}):
                rotation.renewed += _changes(old, new)
    return found


def _renewed(lost: list[str]) -> Iterator[tuple[type[models.Model], str, Any, Any, Any]]:
    """Each value that is set: where it is, as it is, and as it is with the newest key."""
    for model, name in sealed_fields():
        for row in model._base_manager.order_by("pk"):
            if old := getattr(row, name):
                yield model, name, row.pk, old, _anew(old, f"{_words(name)} of {row}", lost)


def _words(name: str) -> str:
    """`scratch_dsn_encrypted` -> `the scratch address`."""
    return f"the {name.removesuffix('_encrypted').replace('dsn', 'address').replace('_', ' ')}"


def _changes(old: Any, new: Any) -> int:
    if isinstance(old, dict):
        return sum(old[name] != new[name] for name in old)
    return int(old != new)


def _anew(value: Any, where: str, lost: list[str]) -> Any:
    if isinstance(value, dict):
        return {name: _anew(token, where, lost) for name, token in value.items()}
    try:
        return with_newest_key(value)
    except AdapterError:
        lost.append(where)
        return value
