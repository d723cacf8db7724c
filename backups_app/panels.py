"""The backups' parts of the platform's pages."""

from __future__ import annotations

from django.template.loader import render_to_string
from django.utils.safestring import SafeString
from django.utils.timesince import timesince
from django.utils.timezone import now
from django.utils.translation import gettext as _

from backups_app.alarms import alarms_of
from backups_app.models import Backup, BackupPolicy, ReplacedDatabase, Storage
from backups_app.parameters import OfBackup
from opsconsole.access.http import ConsoleRequest
from opsconsole.access.models import User
from opsconsole.access.permissions import can
from opsconsole.access.places import CONSOLE
from opsconsole.environments.models import Environment, Target
from opsconsole.environments.visibility import visible_environments
from opsconsole.formats import size
from opsconsole.overview.panels import (
    ENVIRONMENT_ACTIONS,
    ENVIRONMENT_FACTS,
    ENVIRONMENT_PANELS,
    FINDERS,
    SETTINGS_PANELS,
    Fact,
    Found,
)
from opsconsole.runs.choices import RunKind
from opsconsole.runs.models import Run
from opsconsole.runs.panels import RUN_PANELS
from opsconsole.runs.registry import parameters_of
from opsconsole.web.pages import new_key


def register() -> None:
    ENVIRONMENT_FACTS.append(newest_proven)
    ENVIRONMENT_ACTIONS.append(back_up_button)
    ENVIRONMENT_PANELS.append(backups_card)
    RUN_PANELS.append(run_backups)
    SETTINGS_PANELS.append(storages_card)
    FINDERS.append(find_backups)


def newest_proven(targets: list[Target]) -> dict[int, Fact]:
    newest = {
        b.target_id: b
        for b in Backup.objects.proven()
        .filter(target__in=targets)
        .defer("manifest")
        .order_by("target_id", "-taken_at")
        .distinct("target_id")
    }
    none = Fact(_("Backup"), _("none proven yet"))
    alarms = alarms_of(targets)
    return {
        target.pk: _alarm(target.environment, alarms[target.pk])
        if alarms[target.pk]
        else _fact(newest[target.pk])
        if target.pk in newest
        else none
        for target in targets
    }


def _alarm(environment: Environment, sentences: list[str]) -> Fact:
    return Fact(_("Backup"), sentences[0], f"{environment.get_absolute_url()}#backups", "bad")


def _fact(backup: Backup) -> Fact:
    age = timesince(backup.taken_at, now(), depth=1)
    return Fact(
        _("Backup"),
        _("proven, %(age)s old, %(size)s") % {"age": age, "size": size(backup.size_bytes)},
        backup.get_absolute_url(),
    )


def back_up_button(request: ConsoleRequest, target: Target) -> SafeString:
    return render_to_string(
        "backups_app/_environment_action.html",
        {"environment": target.environment, "key": new_key()},
        request,
    )


def storages_card(request: ConsoleRequest) -> SafeString:
    if not can(request.user, "settings.edit", CONSOLE):
        return SafeString("")
    Storage.objects.builtin()
    context = {"storages": Storage.objects.shown().prefetch_related("applications")}
    return render_to_string("backups_app/_settings_panel.html", context, request)


def backups_card(request: ConsoleRequest, target: Target) -> SafeString:
    environment = target.environment
    policies = BackupPolicy.objects.by_environment([environment])
    policy = policies.get(environment.pk) or BackupPolicy.objects.default(environment)
    context = {
        "alarms": alarms_of([target], policies)[target.pk],
        "policy_words": policy.in_words,
        "environment": environment,
        "backups": Backup.objects.listed().defer("manifest").filter(target=target)[:6],
        "replaced": ReplacedDatabase.objects.kept()
        .filter(target=target)
        .select_related("target__environment", "drop_work")[:6],
    }
    return render_to_string("backups_app/_environment_panel.html", context, request)


def run_backups(request: ConsoleRequest, run: Run) -> SafeString:
    replaced = run.replaced.exclude(swapped_at=None).first()
    asked, taken = parameters_of(run), run.result.get("backup")
    of = asked.backup if isinstance(asked, OfBackup) else None
    backups = Backup.objects.in_bulk([pk for pk in (taken, of) if pk])
    source = backups.get(of) if of else None
    context = {
        "run": run,
        "backup": backups.get(taken) or source,
        "restored": source if run.kind == RunKind.RESTORE else None,
        "replaced": replaced,
        "may_undo": replaced is not None
        and replaced.may_be_undone
        and can(request.user, "restore.start", run.environment),
        "ways": run.result.get("ways", []),
        "key": new_key(),
    }
    return render_to_string("backups_app/_run_panel.html", context, request)


def find_backups(user: User, text: str) -> list[Found]:
    rows = Backup.objects.listed().filter(
        environment__in=visible_environments(user), key__icontains=text
    )[:10]
    return [Found(_("Backup"), b.key, b.get_absolute_url(), "archive") for b in rows]
