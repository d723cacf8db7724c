"""Policies and storages: only for admins."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from backups_app.forms import PolicyForm, StorageForm
from backups_app.models import BackupPolicy, Storage
from backups_app.services import policies, storages
from opsconsole.access.http import ConsoleRequest
from opsconsole.access.permissions import require, require_on_console
from opsconsole.environments.lookup import target_or_404
from opsconsole.exceptions import Refused
from opsconsole.web.forms import Given, KeyedForm, act_on, add_refusal
from opsconsole.web.pages import new_key
from opsconsole.web.polling import polled


@require("settings.edit")
def edit_policy(request: ConsoleRequest, application: str, environment: str) -> HttpResponse:
    """The policy; what a changed one would delete is shown before it is saved."""
    target = target_or_404(request, application, environment, "settings.edit")
    where = target.environment
    policy = BackupPolicy.objects.of(where)
    before = policies.policy_values(policy)
    form, preview, status = PolicyForm(request.POST or None, instance=policy), None, 200
    if request.method == "POST" and form.is_valid():
        if form.is_confirmed:
            policies.save_policy(
                actor=request.user,
                policy=form.instance,
                copies=list(form.cleaned_data["copies"]),
                before=before,
            )
            messages.success(request, _("The policy is saved."))
            return redirect(where)
        preview = policies.preview_policy(form.instance, target)
    elif request.method == "POST":
        status = 422
    context = {
        "form": form,
        "environment": where,
        "preview": preview,
        "words": form.instance.in_words if preview else "",
        "key": new_key(),
    }
    return render(request, "backups_app/policy_page.html", context, status=status)


@require_POST
@require("backup.prune")
def prune(request: ConsoleRequest, application: str, environment: str) -> HttpResponse:
    where = target_or_404(request, application, environment, "backup.prune")

    def act(given: Given) -> HttpResponse:
        run = policies.request_prune(actor=request.user, target=where, idempotency_key=given["key"])
        return redirect(run)

    return act_on(
        request, KeyedForm(request.POST), act, title=_("Prune now"), back=where.environment
    )


@require_on_console("settings.edit")
def edit_storage(request: ConsoleRequest, pk: int | None = None) -> HttpResponse:
    storage = get_object_or_404(Storage, pk=pk, archived_at=None) if pk else Storage()
    before = storages.storage_values(storage)
    form = StorageForm(request.POST or None, instance=storage)
    status = 422 if form.is_bound else 200
    if request.method == "POST" and form.is_valid():
        try:
            saved = storages.save_storage(
                actor=request.user,
                storage=form.instance,
                before=before,
                secret=form.cleaned_data.get("secret", ""),
                applications=form.cleaned_data.get("applications"),
            )
        except Refused as refusal:
            status = add_refusal(form, refusal)
        else:
            return redirect("storage-test", saved.pk)
    context = {"form": form, "storage": storage if pk else None}
    return render(request, "backups_app/storage_page.html", context, status=status)


@require_GET
@require_on_console("settings.edit")
@polled
def storage_test(request: ConsoleRequest, pk: int) -> HttpResponse:
    """What the worker found; asks again every second until it did."""
    storage = get_object_or_404(Storage, pk=pk)
    template = "_storage_test" if request.htmx else "storage_test"
    return render(request, f"backups_app/{template}.html", {"storage": storage})


@require_POST
@require_on_console("settings.edit")
def test_storage(request: ConsoleRequest, pk: int) -> HttpResponse:
    storage = get_object_or_404(Storage, pk=pk)
    storages.request_test(actor=request.user, storage=storage)
    return redirect("storage-test", pk)


@require_POST
@require_on_console("settings.edit")
def retire_storage(request: ConsoleRequest, pk: int) -> HttpResponse:
    storages.retire_storage(
        actor=request.user,
        storage=get_object_or_404(Storage, pk=pk),
    )
    messages.success(request, _("The storage is retired; what lies there stays restorable."))
    return redirect("settings")
