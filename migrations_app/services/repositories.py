"""Verbs on the git repository of an application. All audited; the secret never is."""

from __future__ import annotations

from typing import Any

from django.db import transaction

from migrations_app import events
from migrations_app.models import Repository
from migrations_app.services.migrations import OBSERVE
from opsconsole.access.models import User
from opsconsole.access.permissions import authorize
from opsconsole.environments.models import Application, Target
from opsconsole.environments.secrets import seal
from opsconsole.events import recording as audit
from opsconsole.events.recording import fields_of
from opsconsole.work.sending import send_short

FIELDS = ["url", "ref", "folder", "refs"]


def save_repository(
    *, actor: User, repository: Repository, secret: str | None = None
) -> Repository:
    """Save a new or changed repository, and have every environment read anew.

    `secret` replaces what opens it; "" opens it without one, None keeps the present one.
    """
    authorize(actor, "settings.edit", repository.application)
    stored = Repository.objects.filter(pk=repository.pk).first() if repository.pk else None
    before: dict[str, Any] = fields_of(stored, FIELDS) if stored else {}
    if secret is not None:
        repository.secret_encrypted = seal(secret) if secret else ""
    with transaction.atomic():
        repository.save()
        audit.record(
            events.REPOSITORY_CHANGED if stored else events.REPOSITORY_ADDED,
            actor=actor,
            about=repository.application,
            data=events.RepositoryChanged(
                before=before,
                after=fields_of(repository, FIELDS),
                secret_changed=secret is not None,
            ),
        )
    _read_anew(repository.application)
    return repository


def remove_repository(*, actor: User, repository: Repository) -> None:
    """Read the environments' folders again instead."""
    authorize(actor, "settings.edit", repository.application)
    with transaction.atomic():
        audit.record(
            events.REPOSITORY_REMOVED,
            actor=actor,
            about=repository.application,
            data=events.RepositoryRemoved(before=fields_of(repository, FIELDS)),
        )
        repository.delete()
    _read_anew(repository.application)


def _read_anew(application: Application) -> None:
    for target in Target.objects.shown().filter(environment__application=application):
        send_short(OBSERVE, target.pk)
