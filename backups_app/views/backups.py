"""Backups in the browser: the list, one of them, back up, prove, hold."""

from __future__ import annotations

from django.http import FileResponse, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_POST

from backups_app import services
from backups_app.choices import ProofLevel
from backups_app.forms import HoldForm
from backups_app.models import Backup, ReplacedDatabase
from opsconsole.access.http import ConsoleRequest
from opsconsole.access.permissions import authorize, require
from opsconsole.environments.lookup import target_or_404
from opsconsole.environments.visibility import visible_environments
from opsconsole.exceptions import Kind, Refused
from opsconsole.web.keys import key_from
from opsconsole.web.pages import new_key, page_of, posted_key


@require_GET
@require("console.view")
def backup_list(request: ConsoleRequest) -> HttpResponse:
    environments = visible_environments(request.user)
    rows = Backup.objects.listed().defer("manifest").filter(environment__in=environments)
    chosen = request.GET.get("environment", "")
    if environment_id := key_from(chosen):
        rows = rows.filter(environment_id=environment_id)
    replaced = ReplacedDatabase.objects.kept().filter(
        target__environment__in=environments
    ).select_related("run", "target__environment__application", "drop_work")  # fmt: skip
    context = {
        "page": page_of(request, rows),
        "environments": environments,
        "chosen": chosen,
        "replaced": replaced,
    }
    return render(request, "backups_app/backup_list.html", context)


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
        "levels": [level for level in ProofLevel if level >= 0],
        "hold": HoldForm(),
        "key": new_key(),
    }
    return render(request, "backups_app/backup_page.html", context)


@require_POST
@require("run.start")
def back_up(request: ConsoleRequest, application: str, environment: str) -> HttpResponse:
    run = services.request_backup(
        actor=request.user,
        target=target_or_404(request, application, environment, "run.start"),
        idempotency_key=posted_key(request),
        reason=request.POST.get("reason", "")[:500],
    )
    return redirect(run)


@require_POST
@require("run.start")
def prove(request: ConsoleRequest, pk: int) -> HttpResponse:
    level = request.POST.get("level", "")
    levels = [str(level.value) for level in ProofLevel if level >= 0]
    run = services.request_verify(
        actor=request.user,
        backup=backup_or_404(request, pk, "run.start"),
        idempotency_key=posted_key(request),
        level=ProofLevel(int(level)) if level in levels else ProofLevel.CONTENT,
    )
    return redirect(run)


@require_POST
@require("backup.download")
def download(request: ConsoleRequest, pk: int) -> FileResponse:
    backup = backup_or_404(request, pk, "backup.download")
    path = services.open_for_download(actor=request.user, backup=backup)
    return FileResponse(path.open("rb"), as_attachment=True, filename=path.name)


@require_POST
@require("backup.hold")
def hold(request: ConsoleRequest, pk: int) -> HttpResponse:
    backup, form = backup_or_404(request, pk, "backup.hold"), HoldForm(request.POST)
    if not form.is_valid():
        raise Refused(" ".join(str(text) for texts in form.errors.values() for text in texts),
                      kind=Kind.INVALID)  # fmt: skip
    services.hold_backup(
        actor=request.user,
        backup=backup,
        reason=form.cleaned_data["reason"],
        until=form.cleaned_data["until"],
    )
    return redirect(backup)


@require_POST
@require("backup.hold")
def release(request: ConsoleRequest, pk: int) -> HttpResponse:
    backup = backup_or_404(request, pk, "backup.hold")
    services.release_backup(actor=request.user, backup=backup)
    return redirect(backup)
