"""What several views need: one page of a list, whether an answer is a fragment, a fresh key."""

from __future__ import annotations

import uuid

from django.core.paginator import Page, Paginator
from django.db.models import QuerySet
from django.http import HttpRequest
from django.shortcuts import get_object_or_404

from opsconsole.access.permissions import authorize, visible_applications, visible_environments
from opsconsole.environments.models import Application, Environment
from opsconsole.runs.models import Run

PAGE_SIZE = 30


def page_of(request: HttpRequest, rows: QuerySet) -> Page:
    return Paginator(rows, PAGE_SIZE).get_page(request.GET.get("page"))


def wants_fragment(request: HttpRequest) -> bool:
    htmx = request.htmx  # type: ignore[attr-defined]
    return bool(htmx) and not htmx.boosted and not htmx.history_restore_request


def new_key() -> str:
    """An idempotency key, one per rendered form: the same form twice makes one run."""
    return uuid.uuid4().hex


def posted_key(request: HttpRequest) -> str:
    """The form's key; a form without one gets a fresh key."""
    key = request.POST.get("key", "")
    return key if len(key) == 32 and key.isalnum() else new_key()


# What an address names: 404 where the user may not see it, Refused (403) where the user may see it
# but not do there what the address is for.


def application_or_404(request: HttpRequest, pk: int, action: str) -> Application:
    found = get_object_or_404(visible_applications(request.user), pk=pk)  # type: ignore[arg-type]
    authorize(request.user, action, found)  # type: ignore[arg-type]
    return found


def environment_or_404(
    request: HttpRequest, application: str, environment: str, action: str
) -> Environment:
    return _environment(request, action, application__slug=application, slug=environment)


def environment_by_key_or_404(request: HttpRequest, pk: int, action: str) -> Environment:
    return _environment(request, action, pk=pk)


def _environment(request: HttpRequest, action: str, **named: str | int) -> Environment:
    found = get_object_or_404(visible_environments(request.user), **named)  # type: ignore[arg-type]
    authorize(request.user, action, found)  # type: ignore[arg-type]
    return found


def run_or_404(request: HttpRequest, run_id: int, action: str) -> Run:
    run = get_object_or_404(
        Run.objects.for_list().select_related("target", "way_back", "way_back_of"),
        pk=run_id,
        environment__in=visible_environments(request.user),  # type: ignore[arg-type]
    )
    authorize(request.user, action, run.environment)  # type: ignore[arg-type]
    return run
