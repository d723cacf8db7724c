"""What several views need: one page of a list, whether an answer is a fragment, a fresh key."""

from __future__ import annotations

import uuid

from django.core.paginator import Page, Paginator
from django.db.models import QuerySet
from django.http import Http404, HttpRequest
from django.shortcuts import get_object_or_404

from opsconsole.models import Environment, Run
from opsconsole.permissions import visible_environments

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


def environment_or_404(request: HttpRequest, application: str, environment: str) -> Environment:
    """An environment that the user may see."""
    return get_object_or_404(
        visible_environments(request.user),  # type: ignore[arg-type]
        application__slug=application,
        slug=environment,
    )


def run_or_404(request: HttpRequest, run_id: int) -> Run:
    """A run of an environment that the user may see."""
    run = get_object_or_404(Run.objects.for_list().select_related("target", "way_back"), pk=run_id)
    visible = visible_environments(request.user)  # type: ignore[arg-type]
    if not visible.filter(pk=run.environment_id).exists():
        raise Http404
    return run
