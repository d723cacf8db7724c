"""Backups in the browser: the list, one of them, back up, prove, restore, and ways back."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from backups_app import services
from backups_app.forms import DropForm, RestoreForm
from backups_app.models import Backup, ReplacedDatabase
from opsconsole.exceptions import Refused
from opsconsole.permissions import require, visible_environments
from opsconsole.views.pages import environment_or_404, new_key, page_of, posted_key, run_or_404


@require_GET
@require("console.view")
def backup_list(request: HttpRequest) -> HttpResponse:
    environments = visible_environments(request.user)  # type: ignore[arg-type]
    rows = Backup.objects.listed().filter(environment__in=environments)
    chosen = request.GET.get("environment", "")
    if chosen.isdigit():
        rows = rows.filter(environment_id=int(chosen))
    replaced = ReplacedDatabase.objects.filter(
        target__environment__in=environments, dropped_at=None
    ).exclude(swapped_at=None).select_related("run", "target__environment__application")  # fmt: skip
    context = {
        "page": page_of(request, rows),
        "environments": environments,
        "chosen": chosen,
        "replaced": replaced,
    }
    return render(request, "backups_app/backup_list.html", context)


def _backup(request: HttpRequest, pk: int) -> Backup:
    environments = visible_environments(request.user)  # type: ignore[arg-type]
    return get_object_or_404(Backup.objects.listed(), pk=pk, environment__in=environments)


@require_GET
@require("console.view")
def backup_page(request: HttpRequest, pk: int) -> HttpResponse:
    backup = _backup(request, pk)
    context = {"backup": backup, "environment": backup.environment, "key": new_key()}
    return render(request, "backups_app/backup_page.html", context)


@require_POST
@require("run.start")
def back_up(request: HttpRequest, application: str, environment: str) -> HttpResponse:
    run = services.request_backup(
        actor=request.user,  # type: ignore[arg-type]
        environment=environment_or_404(request, application, environment),
        idempotency_key=posted_key(request),
        reason=request.POST.get("reason", "")[:500],
    )
    return redirect(run)


@require_POST
@require("run.start")
def prove(request: HttpRequest, pk: int) -> HttpResponse:
    run = services.request_verify(
        actor=request.user, backup=_backup(request, pk), idempotency_key=posted_key(request)  # type: ignore[arg-type]
    )  # fmt: skip
    return redirect(run)


@require("restore.start")
def restore(request: HttpRequest, pk: int) -> HttpResponse:
    """The restore page: where to, what would stay behind, and the typed name."""
    backup = _backup(request, pk)
    environments = visible_environments(request.user).filter(  # type: ignore[arg-type]
        application=backup.environment.application
    )
    form = RestoreForm(request.POST or None, environments=environments, backup=backup)
    status = 200
    if request.method == "POST":
        if form.is_valid():
            try:
                run = services.request_restore(
                    actor=request.user,  # type: ignore[arg-type]
                    backup=backup,
                    environment=form.cleaned_data["environment"],
                    idempotency_key=posted_key(request),
                    typed_name=form.cleaned_data["typed_name"],
                    reason=form.cleaned_data["reason"],
                )
            except Refused as refusal:
                form.add_error("typed_name" if refusal.status == 422 else None, str(refusal))
                status = refusal.status
            else:
                return redirect(run)
        status = status if status != 200 else 422
    context = {"backup": backup, "form": form, "key": request.POST.get("key") or new_key()}
    return render(request, "backups_app/backup_restore.html", context, status=status)


@require_POST
@require("run.decide")
def way_back(request: HttpRequest, run_id: int) -> HttpResponse:
    run = services.choose_way_back(
        actor=request.user,  # type: ignore[arg-type]
        run=run_or_404(request, run_id),
        reason=request.POST.get("reason", "")[:500],
        idempotency_key=posted_key(request),
        typed_name=request.POST.get("typed_name", ""),
    )
    return redirect(run)


@require("replaced.drop")
def drop_replaced(request: HttpRequest, pk: int) -> HttpResponse:
    """Drop a replaced database: for good, so its whole name is typed."""
    replaced = get_object_or_404(ReplacedDatabase, pk=pk, dropped_at=None)
    form = DropForm(request.POST or None, name=replaced.replaced_name)
    if request.method == "POST" and form.is_valid():
        services.request_drop(actor=request.user, replaced=replaced)  # type: ignore[arg-type]
        messages.success(request, _("It is being dropped."))
        return redirect("backups")
    status = 422 if form.is_bound else 200
    context = {"replaced": replaced, "form": form}
    return render(request, "backups_app/replaced_drop.html", context, status=status)
