"""Try late work at once."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from opsconsole.access.http import ConsoleRequest
from opsconsole.access.permissions import require
from opsconsole.work import services as work
from opsconsole.work.services import work_of


@require_POST
@require("work.retry")
def retry(request: ConsoleRequest, pk: int) -> HttpResponse:
    item = get_object_or_404(work_of(request.user, "console.view"), pk=pk)
    work.try_now(actor=request.user, item=item)
    messages.success(request, _("A worker will try it as soon as one is free."))
    return redirect("home")
