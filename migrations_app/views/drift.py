"""Drift in the browser: check it, acknowledge it, adopt it, download its SQL."""

from __future__ import annotations

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from migrations_app.drift import drift_of
from migrations_app.services import drift as services
from opsconsole.permissions import require
from opsconsole.views.pages import environment_or_404, posted_key


@require_POST
@require("console.view")
def check(request: HttpRequest, application: str, environment: str) -> HttpResponse:
    found = environment_or_404(request, application, environment)
    services.request_check(found)
    messages.success(request, _("A worker is reading the schema now."))
    return redirect(f"{found.get_absolute_url()}#drift")


@require_POST
@require("drift.acknowledge")
def acknowledge(request: HttpRequest, application: str, environment: str) -> HttpResponse:
    found = environment_or_404(request, application, environment)
    services.acknowledge(
        actor=request.user,  # type: ignore[arg-type]
        environment=found,
        schema=request.POST.get("schema", ""),
        reason=request.POST.get("reason", "")[:500],
    )
    messages.success(request, _("The schema is expected as it is now."))
    return redirect(f"{found.get_absolute_url()}#drift")


@require_POST
@require("migration.resolve")
def adopt(request: HttpRequest, application: str, environment: str) -> HttpResponse:
    run = services.request_adoption(
        actor=request.user,  # type: ignore[arg-type]
        environment=environment_or_404(request, application, environment),
        schema=request.POST.get("schema", ""),
        title=request.POST.get("title", ""),
        reason=request.POST.get("reason", "")[:500],
        idempotency_key=posted_key(request),
    )
    return redirect(run)


@require_GET
@require("console.view")
def sql(request: HttpRequest, application: str, environment: str) -> HttpResponse:
    """The drift as SQL, to complete by hand or to look at."""
    found = environment_or_404(request, application, environment)
    drift = drift_of(found.target)
    if drift is None:
        raise Http404
    return HttpResponse(
        services.sql_of(drift).sql,
        content_type="text/plain; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{found.slug}-drift.sql"'},
    )
