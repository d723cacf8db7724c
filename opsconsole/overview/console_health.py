"""The console's own health."""

from __future__ import annotations

from datetime import timedelta

from celery import current_app
from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.db import DatabaseError, connection
from django.db.models import Min
from django.http import HttpRequest, JsonResponse
from django.utils import timezone
from django.views.decorators.http import require_safe

from opsconsole.environments.models import Target, TargetState
from opsconsole.runs.workers import Worker

READ_EVERY = timedelta(seconds=settings.OBSERVE_SECONDS)


@require_safe
@login_not_required
def console_health(_request: HttpRequest) -> JsonResponse:
    """200 when database and broker answer and workers work, 503 with what is wrong otherwise."""
    problems: list[str] = []
    workers = 0
    database = "connected"
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        workers = Worker.objects.alive().count()
        if not workers:
            problems.append("no worker is alive")
        elif minutes := _minutes_stuck():
            problems.append(f"no target was read for {minutes} min: workers or scheduler are stuck")
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


def _minutes_stuck() -> int:
    """Minutes since a worker last read a target, once that is thrice as long as it should be; 0.

    Workers say by a thread of its own that they are alive: it says nothing of those that work.
    """
    if not Target.objects.shown().exists():
        return 0
    started = Worker.objects.alive().aggregate(at=Min("started_at"))["at"]
    read = TargetState.objects.order_by("-pk").values_list("observed_at", flat=True).first()
    since = timezone.now() - max(filter(None, (started, read)))
    return int(since.total_seconds() // 60) if since > 3 * READ_EVERY else 0


def _broker() -> str:
    try:
        with current_app.connection_for_write(connect_timeout=2) as broker:
            broker.ensure_connection(max_retries=1, timeout=2)
    except Exception:  # kombu raises the transport's own errors
        return "error"
    return "connected"
