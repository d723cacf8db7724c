"""Drift in the browser: check it, acknowledge it, adopt it, download its SQL."""

from __future__ import annotations

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from migrations_app.forms import AcknowledgeForm, AdoptForm
from migrations_app.reading.drift import drift_of
from migrations_app.reading.readings import reading_of
from migrations_app.services import drift as services
from opsconsole.access.http import ConsoleRequest
from opsconsole.access.permissions import require
from opsconsole.environments.lookup import require_sudo_if_protected, target_or_404
from opsconsole.environments.models import Target
from opsconsole.exceptions import Refused
from opsconsole.targets import ddl_log
from opsconsole.web.downloads import attachment
from opsconsole.web.forms import Given, act_on


@require_POST
@require("console.view")
def check(request: ConsoleRequest, application: str, environment: str) -> HttpResponse:
    found = target_or_404(request, application, environment, "console.view")
    services.request_check(found)
    messages.success(request, _("A worker is reading the schema now."))
    return redirect(f"{found.environment.get_absolute_url()}#drift")


@require_POST
@require("drift.acknowledge")
def acknowledge(request: ConsoleRequest, application: str, environment: str) -> HttpResponse:
    found = target_or_404(request, application, environment, "drift.acknowledge")

    def act(given: Given) -> HttpResponse:
        services.acknowledge(
            actor=request.user, target=found, schema=given["schema"], reason=given["reason"]
        )
        messages.success(request, _("The schema is expected as it is now."))
        return redirect(f"{found.environment.get_absolute_url()}#drift")

    form = AcknowledgeForm(request.POST)
    return act_on(request, form, act, title=_("Acknowledge"), back=found.environment)


@require_POST
@require("migration.resolve")
def adopt(request: ConsoleRequest, application: str, environment: str) -> HttpResponse:
    found = target_or_404(request, application, environment, "migration.resolve")
    require_sudo_if_protected(request, found.environment)

    def act(given: Given) -> HttpResponse:
        run = services.request_adoption(
            actor=request.user,
            target=found,
            schema=given["schema"],
            title=given["title"],
            reason=given["reason"],
            idempotency_key=given["key"],
        )
        return redirect(run)

    form = AdoptForm(request.POST)
    return act_on(request, form, act, title=_("Adopt as a migration"), back=found.environment)


@require_GET
@require("console.view")
def sql(request: ConsoleRequest, application: str, environment: str) -> HttpResponseBase:
    """The drift as SQL, to complete by hand or to look at."""
    found = target_or_404(request, application, environment, "console.view")
    drift = drift_of(found)
    if drift is None:
        raise Http404
    return _file(request, found, services.sql_of(drift).sql, "drift.sql")


@require_GET
@require("console.view")
def log_script(request: ConsoleRequest, application: str, environment: str) -> HttpResponseBase:
    """What a superuser runs to have the database keep a log of its schema changes."""
    found = target_or_404(request, application, environment, "console.view")
    server = reading_of(found.latest_state).server
    if server is None or not server.user:
        raise Refused(
            _("The role of this environment is not known yet: its database was not read.")
        )
    return _file(request, found, ddl_log.install_sql(server.user), "log-of-schema-changes.sql")


def _file(request: ConsoleRequest, target: Target, text: str, name: str) -> HttpResponseBase:
    where = target.environment
    return attachment(text, actor=request.user, name=f"{where.slug}-{name}", environment=where)
