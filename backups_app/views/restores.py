"""Restore, ways back, undo, and dropping what was replaced, in the browser."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from backups_app import services
from backups_app.forms import CheckForm, DropForm, RestoreForm, UndoForm, WayBackForm
from backups_app.models import ReplacedDatabase, RestoreCheck
from backups_app.parameters import RestoreParameters, UndoParameters
from backups_app.views.backups import backup_or_404
from opsconsole.access.http import ConsoleRequest
from opsconsole.access.permissions import authorize, require
from opsconsole.environments.lookup import require_sudo_if_protected
from opsconsole.environments.visibility import targets_for, visible_environments
from opsconsole.exceptions import Refused
from opsconsole.runs.lookup import run_or_404
from opsconsole.runs.registry import outlook
from opsconsole.web.forms import Given, act_on, add_refusal
from opsconsole.web.polling import polled


@require("restore.start")
def restore(request: ConsoleRequest, pk: int) -> HttpResponse:
    """The restore page: where to, what would stay behind, and the typed name."""
    backup = backup_or_404(request, pk, "console.view")
    targets = targets_for(request.user, "restore.start").filter(
        environment__application=backup.environment.application
    )
    if not targets.exists():
        authorize(request.user, "restore.start", backup.environment)
    offered, why_not_all = services.destinations(
        actor=request.user,
        backup=backup,
        among=targets,
    )
    form = RestoreForm(
        request.POST or None,
        targets=targets,
        offered=offered,
        backup=backup,
        behind=services.known_to_stay_behind(offered, backup),
    )
    status = 200
    if request.method == "POST":
        if form.is_valid():
            try:
                run = services.request_restore(
                    actor=request.user,
                    backup=backup,
                    target=form.cleaned_data["environment"],
                    idempotency_key=form.cleaned_data["key"],
                    typed_name=form.cleaned_data["typed_name"],
                    reason=form.cleaned_data["reason"],
                    new_database=form.cleaned_data["new_database"].strip(),
                    consents_unmasked=form.cleaned_data.get("consents_unmasked", False),
                    trusts_source=form.cleaned_data.get("trusts_source", False),
                    backs_up_first=form.cleaned_data["backs_up_first"],
                    consents=form.cleaned_data.get("consents", ()),
                )
            except Refused as refusal:
                status = add_refusal(form, refusal)
            else:
                return redirect(run)
        status = status if status != 200 else 422
    context = {
        "backup": backup,
        "form": form,
        "outlook": outlook(RestoreParameters(backup=backup.pk), backup.target),
        "offered": offered,
        "why_not_all": why_not_all,
    }
    return render(request, "backups_app/backup_restore.html", context, status=status)


@require_POST
@require("restore.start", changes_nothing=True)
def check(request: ConsoleRequest, pk: int) -> HttpResponse:
    """Ask a worker what a restore into the chosen environment would meet."""
    backup = backup_or_404(request, pk, "console.view")

    def act(given: Given) -> HttpResponse:
        made = services.request_check(
            actor=request.user, backup=backup, target=given["environment"]
        )
        return render(request, "backups_app/_restore_check.html", {"check": made})

    form = CheckForm(request.POST, user=request.user)
    return act_on(request, form, act, title=_("Look now"), back=backup)


@require_GET
@require("restore.start")
@polled
def check_result(request: ConsoleRequest, pk: int, check_id: int) -> HttpResponse:
    found = get_object_or_404(
        RestoreCheck,
        pk=check_id,
        backup=backup_or_404(request, pk, "console.view"),
        target__in=targets_for(request.user, "restore.start"),
    )
    return render(request, "backups_app/_restore_check.html", {"check": found})


@require_POST
@require("run.decide")
def way_back(request: ConsoleRequest, run_id: int) -> HttpResponse:
    needing = run_or_404(request, run_id, "run.decide")
    require_sudo_if_protected(request, needing.environment)

    def act(given: Given) -> HttpResponse:
        run = services.choose_way_back(
            actor=request.user,
            run=needing,
            reason=given["reason"],
            idempotency_key=given["key"],
            typed_name=given["typed_name"],
            consents=given.get("consents", ()),
        )
        return redirect(run)

    form = WayBackForm(
        request.POST,
        behind=needing.result.get("left_behind", []),
        names=[needing.environment.slug],
    )
    return act_on(request, form, act, title=_("Restore"), back=needing)


def _kept_or_404(request: ConsoleRequest, pk: int, action: str) -> ReplacedDatabase:
    found = get_object_or_404(
        ReplacedDatabase.objects.kept().select_related("target__environment__application"),
        pk=pk,
        target__environment__in=visible_environments(request.user),
    )
    authorize(request.user, action, found.target.environment)
    return found


@require("restore.start")
def undo(request: ConsoleRequest, pk: int) -> HttpResponse:
    """Exchange the replaced database with the live one again; both stay."""
    replaced = _kept_or_404(request, pk, "restore.start")
    form = UndoForm(
        request.POST or None,
        behind=services.known_to_stay_behind([replaced.target]),
        names=[replaced.target.environment.slug],
    )
    status = 200
    if request.method == "POST":
        status = 422
        if form.is_valid():
            try:
                run = services.request_undo(
                    actor=request.user,
                    replaced=replaced,
                    idempotency_key=form.cleaned_data["key"],
                    typed_name=form.cleaned_data["typed_name"],
                    reason=form.cleaned_data["reason"],
                    consents=form.cleaned_data.get("consents", ()),
                )
            except Refused as refusal:
                status = add_refusal(form, refusal)
            else:
                return redirect(run)
    context = {
        "replaced": replaced,
        "environment": replaced.target.environment,
        "form": form,
        "health": services.health_around(replaced),
        "outlook": outlook(UndoParameters(replaced=replaced.pk), replaced.target),
    }
    return render(request, "backups_app/replaced_undo.html", context, status=status)


@require("replaced.drop")
def drop_replaced(request: ConsoleRequest, pk: int) -> HttpResponse:
    """Drop a replaced database: for good, so its whole name is typed."""
    replaced = _kept_or_404(request, pk, "replaced.drop")
    form = DropForm(request.POST or None)
    status = 422 if form.is_bound else 200
    if request.method == "POST" and form.is_valid():
        try:
            services.request_drop(
                actor=request.user, replaced=replaced, typed_name=form.cleaned_data["typed_name"]
            )
        except Refused as refusal:
            status = add_refusal(form, refusal)
        else:
            messages.success(request, _("It is being dropped."))
            return redirect("backups")
    context = {"replaced": replaced, "form": form}
    return render(request, "backups_app/replaced_drop.html", context, status=status)
