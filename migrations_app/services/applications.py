"""Add an application whose migrations were found, and allow folders where they may lie."""

from __future__ import annotations

from pathlib import Path

from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _

from migrations_app import events
from migrations_app.models import Repository
from migrations_app.services.repositories import save_repository
from migrations_app.sources.discovery import FoundFolder, is_folder
from migrations_app.sources.roots import add_root, checked_root
from opsconsole.access.models import User
from opsconsole.access.permissions import authorize
from opsconsole.access.places import CONSOLE
from opsconsole.environments.models import Application, Draft
from opsconsole.environments.secrets import Sealed
from opsconsole.environments.services import save_application
from opsconsole.events import recording as audit
from opsconsole.exceptions import Kind, Refused


def allow_folder(*, actor: User, folder: str) -> Path:
    """Allow migrations to lie below a folder of this machine.

    Raises AdapterError as `checked_root` does.
    """
    authorize(actor, "settings.edit", CONSOLE)
    path = checked_root(folder)
    with transaction.atomic():
        audit.record(
            events.FOLDER_ALLOWED, actor=actor, data=events.FolderAllowed(folder=str(path))
        )
        add_root(path)
    return path


def add_application(
    *, actor: User, draft: Draft, application: Application, found: FoundFolder
) -> Application:
    """Save an application with the folder that was found for it, and forget its draft.

    Refused (conflict) when the draft was changed, or another took the short name meanwhile.
    """
    authorize(actor, "settings.edit", draft.place)
    with transaction.atomic():
        tried = Draft.objects.select_for_update().filter(pk=draft.pk, tries=draft.tries).first()
        if tried is None or tried.tried_at is None or tried.error:
            raise Refused(
                _("It was changed, and has not been looked into since: wait for that."),
                kind=Kind.CONFLICT,
            )
        source = tried.given["source"]
        application.engine = found.engine
        application.migrations_folder = found.folder if is_folder(source) else ""
        try:
            with transaction.atomic():
                save_application(actor=actor, application=application, before={})
        except IntegrityError:
            raise Refused(
                _("Another application has this short name."), kind=Kind.CONFLICT, field="slug"
            ) from None
        if not is_folder(source):
            sealed = tried.sealed.get("secret", "")
            save_repository(
                actor=actor,
                repository=Repository(
                    application=application,
                    url=source,
                    ref=tried.found.get("ref") or tried.given.get("ref", ""),
                    folder=found.folder,
                ),
                secret=Sealed(sealed) if sealed else None,
            )
        tried.delete()
    return application
