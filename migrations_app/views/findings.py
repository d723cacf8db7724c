"""Waive findings, and set what each rule does."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from migrations_app.models import LintLevel, Waiver
from migrations_app.services import findings
from opsconsole.access.http import ConsoleRequest
from opsconsole.access.permissions import require
from opsconsole.environments.lookup import application_or_404, environment_or_404, target_or_404


@require_POST
@require("finding.waive")
def waive(request: ConsoleRequest, application: str, environment: str, name: str) -> HttpResponse:
    findings.waive_finding(
        actor=request.user,
        target=target_or_404(request, application, environment, "console.view"),
        migration=name,
        rule=request.POST.get("rule", ""),
        reason=request.POST.get("reason", "")[:500],
    )
    messages.success(request, _("Waived. The reason is kept with the migration."))
    return redirect("migration", application, environment, name)


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
    if request.method == "POST":
        findings.set_levels(
            actor=request.user,
            application=application,
            levels={
                name.removeprefix("rule-"): str(value)
                for name, value in request.POST.items()
                if name.startswith("rule-")
            },
        )
        messages.success(request, _("Saved. It holds from the next look at a migration."))
        return redirect("settings")
    context = {
        "application": application,
        "levels": findings.levels_of(application),
        "choices": LintLevel.Level.choices,
    }
    return render(request, "migrations_app/lint_levels.html", context)
