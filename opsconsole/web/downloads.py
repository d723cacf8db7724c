"""Answers that are files: whoever takes one is in the audit trail."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from django.db import models, transaction
from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.http import content_disposition_header

from opsconsole.events import recording as audit
from opsconsole.events.recording import Actor
from opsconsole.web.events import FILE_DOWNLOADED, FileDownloaded


def attachment(
    body: str | Iterable[str],
    *,
    actor: Actor,
    name: str,
    content_type: str = "text/plain",
    environment: models.Model | None = None,
    filters: Mapping[str, str] | None = None,
) -> HttpResponseBase:
    """The text as a file of that name, recorded before its first byte; parts are streamed.

    `environment` is what it is about, `filters` how it was chosen. Raises Refused (unavailable)
    when it cannot be recorded. Whether the actor may have it was asked before.
    """
    told = {"filters": dict(filters)} if filters else {}
    with transaction.atomic():
        audit.record(
            FILE_DOWNLOADED,
            actor=actor,
            environment=environment,
            data=FileDownloaded(file=name, **told),
        )
    headers: dict[str, Any] = {
        "content_type": f"{content_type}; charset=utf-8",
        "headers": {"Content-Disposition": content_disposition_header(True, name)},
    }
    if isinstance(body, str):
        return HttpResponse(body, **headers)
    return StreamingHttpResponse(body, **headers)
