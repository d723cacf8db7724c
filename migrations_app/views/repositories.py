"""The git repository of an application, in the settings. Only for admins."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from migrations_app.forms import RepositoryForm
from migrations_app.models import Repository
from migrations_app.services import repositories
from opsconsole.access.http import ConsoleRequest
from opsconsole.access.permissions import require
from opsconsole.environments.lookup import application_or_404


@require("settings.edit")
def edit(request: ConsoleRequest, pk: int) -> HttpResponse:
    application = application_or_404(request, pk, "settings.edit")
    repository = Repository.objects.filter(application=application).first()
    form = RepositoryForm(
        request.POST or None, instance=repository or Repository(), application=application
    )
    if request.method == "POST" and form.is_valid():
        repositories.save_repository(
            actor=request.user,
            repository=form.instance,
            secret=form.new_secret,
        )
        messages.success(request, _("Saved. The workers are fetching it now."))
        return redirect(application)
    context = {"form": form, "application": application, "repository": repository}
    status = 422 if form.is_bound and not form.is_valid() else 200
    return render(request, "migrations_app/repository_page.html", context, status=status)


@require_POST
@require("settings.edit")
def remove(request: ConsoleRequest, pk: int) -> HttpResponse:
    application = application_or_404(request, pk, "settings.edit")
    repository = get_object_or_404(Repository, application=application)
    repositories.remove_repository(actor=request.user, repository=repository)
    messages.success(request, _("The environments' folders are read again."))
    return redirect("settings")
