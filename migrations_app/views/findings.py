"""Waive findings, and set what each rule does."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from migrations_app.forms import LevelsForm, WaiveForm
from migrations_app.models import Waiver
from migrations_app.services import findings
from opsconsole.access.http import ConsoleRequest
from opsconsole.access.permissions import authorize, require
from opsconsole.environments.lookup import application_or_404, environment_or_404, target_or_404
from opsconsole.web.forms import Given, act_on


@require_POST
@require("finding.waive")
def waive(request: ConsoleRequest, application: str, environment: str, name: str) -> HttpResponse:
    found = target_or_404(request, application, environment, "console.view")
    authorize(request.user, "finding.waive", found.environment.application)

    def act(given: Given) -> HttpResponse:
        findings.waive_finding(
            actor=request.user,
            target=found,
            migration=name,
            rule=given["rule"],
            reason=given["reason"],
        )
        messages.success(request, _("Waived. The reason is kept with the migration."))
        return redirect("migration", application, environment, name)

    back = reverse("migration", args=[application, environment, name])
    return act_on(request, WaiveForm(request.POST), act, title=_("Waive"), back=back)


@require_POST
@require("finding.waive")
def withdraw(
    request: ConsoleRequest, application: str, environment: str, name: str, pk: int
) -> HttpResponse:
    where = environment_or_404(request, application, environment, "console.view")
    findings.withdraw_waiver(
        actor=request.user,
        environment=where,
        waiver=get_object_or_404(Waiver, pk=pk, application=where.application),
    )
    messages.success(request, _("The waiver is withdrawn: its findings stand again."))
    return redirect("migration", application, environment, name)


@require("settings.edit")
def edit_levels(request: ConsoleRequest, pk: int) -> HttpResponse:
    application = application_or_404(request, pk, "settings.edit")
    form = LevelsForm(request.POST or None, levels=findings.levels_of(application))
    if request.method == "POST" and form.is_valid():
        findings.set_levels(actor=request.user, application=application, levels=form.levels)
        messages.success(request, _("Saved. It holds from the next look at a migration."))
        return redirect("settings")
    context = {"application": application, "form": form}
    status = 422 if form.is_bound else 200
    return render(request, "migrations_app/lint_levels.html", context, status=status)
