"""Verbs on drafts: what is tried on a worker before it is added. The secrets in them are sealed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models.functions import Now
from django.utils.translation import gettext as _

from opsconsole.access.models import User
from opsconsole.access.permissions import authorize
from opsconsole.environments import events
from opsconsole.environments.models import Draft
from opsconsole.environments.secrets import seal
from opsconsole.events import recording as audit
from opsconsole.exceptions import Kind, Refused
from opsconsole.work import services as work
from opsconsole.work.models import WorkItem
from opsconsole.work.registry import work_key

TRY_ENVIRONMENT = work_key("opsconsole.try_environment")
TRY_APPLICATION = work_key("opsconsole.try_application")
KEEP = timedelta(days=7)


def keep_draft(
    *, actor: User, draft: Draft, given: dict[str, Any], secrets: dict[str, str | None]
) -> Draft:
    """Keep a draft, new or changed, and have a worker try it.

    Of `secrets`, by field, None keeps what is sealed already, and "" drops it.
    """
    with transaction.atomic():
        keep_typed(actor=actor, draft=draft, given=given, secrets=secrets)
        event = audit.record(events.DRAFT_TRIED, actor=actor, about=draft)
        work.add(
            TRY_ENVIRONMENT if draft.application else TRY_APPLICATION,
            f"{event.action}:{event.pk}",
            {"draft": draft.pk, "try": draft.tries},
            about=str(draft),
        )
    return draft


def keep_typed(
    *, actor: User, draft: Draft, given: dict[str, Any], secrets: dict[str, str | None]
) -> None:
    """Keep what cannot be tried yet, as `keep_draft` does: nobody types a secret twice. What was
    found before is forgotten, for it is no answer to this.

    Raises Refused when somebody changed, saved or discarded the draft since it was read.
    """
    authorize(actor, "settings.edit", draft.place)
    with transaction.atomic():
        _hold(draft)
        _keep(actor, draft, given, secrets)


def _hold(draft: Draft) -> None:
    present = Draft.objects.select_for_update().filter(pk=draft.pk, tries=draft.tries)
    if draft.pk is not None and not present.exists():
        raise Refused(
            _("This draft was changed, saved or discarded meanwhile. Open it again."),
            kind=Kind.CONFLICT,
        )


def _keep(actor: User, draft: Draft, given: dict[str, Any], secrets: dict[str, str | None]) -> None:
    changed = {name: seal(text) for name, text in secrets.items() if text}
    dropped = {name for name, text in secrets.items() if text == ""}
    kept = {name: text for name, text in draft.sealed.items() if name not in dropped}
    draft.given, draft.sealed = given, kept | changed
    draft.tries += 1
    draft.found, draft.error, draft.tried_at = {}, "", None
    if draft.pk is None:
        draft.made_by = actor
    draft.save()


def pending_try(draft: Draft) -> WorkItem | None:
    """The present try, while it is still to be done."""
    return (
        WorkItem.objects.pending()
        .filter(
            work__in=[TRY_ENVIRONMENT, TRY_APPLICATION],
            arguments={"draft": draft.pk, "try": draft.tries},
        )
        .last()
    )


def discard_draft(*, actor: User, draft: Draft) -> None:
    """Forget a draft and the secrets in it."""
    authorize(actor, "settings.edit", draft.place)
    draft.delete()


def forget_old_drafts() -> int:
    """Delete those begun over a week ago, with the secrets in them; returns how many."""
    return Draft.objects.filter(made_at__lt=Now() - KEEP).delete()[0]
