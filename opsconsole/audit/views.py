"""The audit trail: filter and read."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta

from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404, render
from django.utils import timezone
from django.views.decorators.http import require_GET

from opsconsole.access.http import ConsoleRequest
from opsconsole.access.permissions import require
from opsconsole.audit.forms import AuditFilterForm
from opsconsole.audit.visibility import visible_events
from opsconsole.events.models import AuditEvent, AuditQuerySet
from opsconsole.formats import visible
from opsconsole.web.downloads import attachment
from opsconsole.web.pages import stretch_of

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@require_GET
@require("audit.view")
def audit_list(request: ConsoleRequest) -> HttpResponse:
    return _page(request, _form(request))


@require_GET
@require("audit.view")
def audit_event(request: ConsoleRequest, event_id: int) -> HttpResponse:
    events = visible_events(request.user)
    event = get_object_or_404(events.matching(), pk=event_id)
    return render(request, "opsconsole/audit_event.html", {"event": event})


@require_GET
@require("audit.view")
def audit_csv(request: ConsoleRequest) -> HttpResponseBase:
    """The filtered trail for people's spreadsheets; no cell starts a formula."""
    form = _form(request)
    if not form.is_valid():
        return _page(request, form)
    events = _events(request, form)
    return attachment(
        _csv_lines(events),
        actor=request.user,
        name="audit.csv",
        content_type="text/csv",
        filters={name: value for name, value in form.data.items() if value},
    )


def _form(request: ConsoleRequest) -> AuditFilterForm:
    return AuditFilterForm(request.GET or {}, user=request.user)


def _page(request: ConsoleRequest, form: AuditFilterForm) -> HttpResponse:
    status = 200 if form.is_valid() else 422
    page = stretch_of(request, _events(request, form))
    return render(
        request, "opsconsole/audit_list.html", {"form": form, "page": page}, status=status
    )


def _events(request: ConsoleRequest, form: AuditFilterForm) -> AuditQuerySet:
    if not form.is_valid():
        return AuditEvent.objects.none()
    given = form.cleaned_data
    return visible_events(request.user).matching(
        who=given["who"],
        what=given["what"],
        event=given["event"],
        since=_start_of(given["since"]),
        until=_start_of(given["until"], days=1),
        environment=given["environment"],
    )


def _start_of(day: date | None, days: int = 0) -> datetime | None:
    if day is None:
        return None
    return timezone.make_aware(datetime.combine(day + timedelta(days=days), time.min))


class _Echo:
    def write(self, value: str) -> str:
        return value


def _csv_lines(events: AuditQuerySet) -> Iterator[str]:
    """Read in a terminal too: nothing in it is obeyed by one."""
    return map(visible, _rows(events))


def _rows(events: AuditQuerySet) -> Iterator[str]:
    writer = csv.writer(_Echo())
    yield writer.writerow(
        [
            "id",
            "at (UTC)",
            "who",
            "from",
            "what",
            "outcome",
            "environment",
            "object",
            "reason",
            "with",
            "details",
            "sentence",
        ]
    )
    for event in events.iterator():
        yield writer.writerow(
            [
                event.pk, event.occurred_at.isoformat(), _cell(event.actor_label), event.ip or "",
                event.action, event.outcome, _cell(str(event.environment or "")),
                _cell(event.object_label), _cell(event.reason), _cell(event.user_agent),
                json.dumps(event.details, ensure_ascii=False), _cell(event.told),
            ]
        )  # fmt: skip


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text
