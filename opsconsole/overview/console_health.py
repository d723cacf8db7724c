"""The console's own health."""

from __future__ import annotations

from celery import current_app
from django.contrib.auth.decorators import login_not_required
from django.db import DatabaseError, connection
from django.http import HttpRequest, JsonResponse
from django.utils import timezone
from django.views.decorators.http import require_safe

from opsconsole.runs.workers import Worker


@require_safe
@login_not_required
def console_health(_request: HttpRequest) -> JsonResponse:
    """200 when database and broker answer and a worker lives, 503 with what is wrong otherwise."""
    problems: list[str] = []
    workers = 0
    database = "connected"
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        workers = Worker.objects.alive().count()
        if not workers:
            problems.append("no worker is alive")
    except DatabaseError:
        database = "error"
        problems.append("the database does not answer")
    broker = _broker()
    if broker != "connected":
        problems.append("the broker does not answer")
    body = {
        "status": "unhealthy" if problems else "healthy",
        "database": database,
        "broker": broker,
        "workers": workers,
        "timestamp": timezone.now().isoformat(),
    }
    if problems:
        body["error"] = "; ".join(problems)
    return JsonResponse(body, status=503 if problems else 200)


def _broker() -> str:
    try:
        with current_app.connection_for_write(connect_timeout=2) as broker:
            broker.ensure_connection(max_retries=1, timeout=2)
    except Exception:  # kombu raises the transport's own errors
        return "error"
    return "connected"
