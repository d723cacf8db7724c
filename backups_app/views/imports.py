"""Import an archive that was made elsewhere: only for admins."""

from __future__ import annotations

from django.http import HttpResponse
from django.shortcuts import redirect, render

from backups_app import services
from backups_app.forms import ImportForm
from backups_app.parameters import ImportParameters
from opsconsole.access.http import ConsoleRequest
from opsconsole.access.permissions import require
from opsconsole.environments.lookup import target_or_404
from opsconsole.exceptions import Refused
from opsconsole.runs.registry import outlook
from opsconsole.web.forms import add_refusal


@require("backup.import")
def import_backup(request: ConsoleRequest, application: str, environment: str) -> HttpResponse:
    where = target_or_404(request, application, environment, "backup.import")
    form = ImportForm(
        request.POST or None, request.FILES or None, application=where.environment.application
    )
    status = 422 if form.is_bound else 200
    if request.method == "POST" and form.is_valid():
        given, uploaded = form.cleaned_data, form.cleaned_data["file"]
        more = {
            "actor": request.user,
            "target": where,
            "idempotency_key": given["key"],
            "reason": given["reason"],
        }
        try:
            if uploaded:
                run = services.import_upload(name=uploaded.name, chunks=uploaded.chunks(), **more)
            else:
                run = services.import_from_storage(
                    storage=given["storage"], key=given["path"], **more
                )
        except Refused as refusal:
            status = add_refusal(form, refusal)
        else:
            return redirect(run)
    context = {
        "environment": where.environment,
        "form": form,
        "has_quarantine": bool(where.quarantine_dsn_encrypted),
        "outlook": outlook(ImportParameters(storage=0, key=""), where),
    }
    return render(request, "backups_app/backup_import.html", context, status=status)
