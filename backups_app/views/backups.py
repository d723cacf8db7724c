"""Backups in the browser: the list, one of them, back up, prove, hold."""

from __future__ import annotations

from django.http import FileResponse, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from backups_app import services
from backups_app.forms import LEVELS, BackUpForm, HoldForm, ProveForm
from backups_app.models import Backup, ReplacedDatabase
from opsconsole.access.http import ConsoleRequest
from opsconsole.access.permissions import authorize, require
from opsconsole.access.sudo import require_sudo
from opsconsole.environments.forms import EnvironmentFilterForm
from opsconsole.environments.lookup import target_or_404
from opsconsole.environments.visibility import visible_environments
from opsconsole.web.forms import Given, act_on
from opsconsole.web.pages import Order, new_key, stretch_of

# When it was taken, which is not when its row was made: that comes once its file is whole.
BY_TAKEN = Order("taken_at")


@require_GET
@require("console.view")
def backup_list(request: ConsoleRequest) -> HttpResponse:
    environments = visible_environments(request.user)
    form = EnvironmentFilterForm(request.GET or {}, user=request.user)
    rows = Backup.objects.none()
    if form.is_valid():
        rows = Backup.objects.listed().defer("manifest").filter(environment__in=environments)
        if chosen := form.cleaned_data["environment"]:
            rows = rows.filter(environment=chosen)
    replaced = (
        ReplacedDatabase.objects.kept()
        .filter(target__environment__in=environments)
        .select_related("run", "target__environment__application", "drop_work")
    )
    context = {"page": stretch_of(request, rows, BY_TAKEN), "form": form, "replaced": replaced}
    status = 200 if form.is_valid() else 422
    return render(request, "backups_app/backup_list.html", context, status=status)


def backup_or_404(request: ConsoleRequest, pk: int, action: str) -> Backup:
    """A backup, deleted or not: 404 if not the user's to see, Refused (forbidden) to act on."""
    found = get_object_or_404(
        Backup.objects.select_related(
            "environment__application", "target__environment__application", "run", "held_by"
        ),
        pk=pk,
        environment__in=visible_environments(request.user),
    )
    authorize(request.user, action, found.environment)
    return found


@require_GET
@require("console.view")
def backup_page(request: ConsoleRequest, pk: int) -> HttpResponse:
    backup = backup_or_404(request, pk, "console.view")
    context = {
        "backup": backup,
        "environment": backup.environment,
        "copies": backup.copies.select_related("storage"),
        "levels": LEVELS,
        "hold": HoldForm(),
        "key": new_key(),
    }
    return render(request, "backups_app/backup_page.html", context)


@require_POST
@require("run.start")
def back_up(request: ConsoleRequest, application: str, environment: str) -> HttpResponse:
    where = target_or_404(request, application, environment, "run.start")

    def act(given: Given) -> HttpResponse:
        run = services.request_backup(
            actor=request.user,
            target=where,
            idempotency_key=given["key"],
            reason=given["reason"],
        )
        return redirect(run)

    return act_on(
        request, BackUpForm(request.POST), act, title=_("Back up"), back=where.environment
    )


@require_POST
@require("run.start")
def prove(request: ConsoleRequest, pk: int) -> HttpResponse:
    backup = backup_or_404(request, pk, "run.start")

    def act(given: Given) -> HttpResponse:
        run = services.request_verify(
            actor=request.user,
            backup=backup,
            idempotency_key=given["key"],
            level=given["level"],
        )
        return redirect(run)

    return act_on(request, ProveForm(request.POST), act, title=_("Prove"), back=backup)


@require_POST
@require("backup.download")
def download(request: ConsoleRequest, pk: int) -> FileResponse:
    backup = backup_or_404(request, pk, "backup.download")
    require_sudo(request, then=backup.get_absolute_url())
    path = services.open_for_download(actor=request.user, backup=backup)
    return FileResponse(path.open("rb"), as_attachment=True, filename=path.name)


@require_POST
@require("backup.hold")
def hold(request: ConsoleRequest, pk: int) -> HttpResponse:
    backup = backup_or_404(request, pk, "backup.hold")

    def act(given: Given) -> HttpResponse:
        services.hold_backup(
            actor=request.user, backup=backup, reason=given["reason"], until=given["until"]
        )
        return redirect(backup)

    return act_on(request, HoldForm(request.POST), act, title=_("Put on hold"), back=backup)


@require_POST
@require("backup.hold")
def release(request: ConsoleRequest, pk: int) -> HttpResponse:
    backup = backup_or_404(request, pk, "backup.hold")
    services.release_backup(actor=request.user, backup=backup)
    return redirect(backup)
