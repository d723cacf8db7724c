"""The backups' parts of the platform's pages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from django.db.models import Case, Count, Max, Min, Q, When, prefetch_related_objects
from django.template.defaultfilters import date as date_format
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.safestring import SafeString
from django.utils.timesince import timesince
from django.utils.timezone import localtime, now
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from backups_app.alarms import alarms_of
from backups_app.models import Backup, BackupPolicy, ReplacedDatabase, Storage
from backups_app.parameters import OfBackup
from backups_app.schedules import next_due
from opsconsole.access.http import ConsoleRequest
from opsconsole.access.models import User
from opsconsole.access.permissions import can
from opsconsole.access.places import CONSOLE
from opsconsole.environments.models import Environment, Target
from opsconsole.environments.visibility import visible_environments
from opsconsole.formats import size
from opsconsole.overview.panels import (
    COMING,
    ENVIRONMENT_ACTIONS,
    ENVIRONMENT_FACTS,
    ENVIRONMENT_PANELS,
    ENVIRONMENT_TILES,
    FINDERS,
    FIRST_STEPS,
    NEEDS,
    SETTINGS_PANELS,
    Act,
    Coming,
    Concern,
    Fact,
    FirstStep,
    Found,
    Need,
    Stage,
)
from opsconsole.runs.choices import RunKind, RunStatus
from opsconsole.runs.models import Run
from opsconsole.runs.panels import NEXT_ACTS, RUN_CHOICES, RUN_PANELS, NextAct
from opsconsole.runs.registry import parameters_of
from opsconsole.web.keys import key_from
from opsconsole.web.pages import new_key


def register() -> None:
    ENVIRONMENT_FACTS.append(newest_proven)
    ENVIRONMENT_TILES.append(backup_tile)
    ENVIRONMENT_ACTIONS.append(back_up_button)
    ENVIRONMENT_PANELS.append(backups_card)
    RUN_PANELS.append(run_backups)
    RUN_CHOICES.append(run_ways)
    NEXT_ACTS.append(after_run)
    SETTINGS_PANELS.append(storages_card)
    FINDERS.append(find_backups)
    NEEDS.append(backup_needs)
    COMING.extend([scheduled, expiring])
    FIRST_STEPS.append(first_backup)


def newest_proven(targets: list[Target]) -> dict[int, Fact]:
    newest = {
        b.target_id: b
        for b in Backup.objects.proven()
        .filter(target__in=targets)
        .defer("manifest")
        .order_by("target_id", "-taken_at")
        .distinct("target_id")
    }
    none = Fact(_("Backup"), _("none proven yet"), tone="warn")
    return {
        target.pk: _fact(newest[target.pk]) if target.pk in newest else none for target in targets
    }


def first_backup(user: User, target: Target) -> FirstStep:
    environment = target.environment
    address = reverse("back-up", args=[environment.application.slug, environment.slug])
    act = Act(_("Back up now"), address, key=new_key())
    return FirstStep(
        _("A first backup, restored and compared, shows that there is a way back."),
        Backup.objects.proven().filter(target=target).exists(),
        act if can(user, "run.start", environment) else None,
    )


def backup_tile(target: Target) -> Fact:
    """The newest proven one, and when the next is due."""
    fact = newest_proven([target])[target.pk]
    policy = _policies_of([target.environment]).get(target.environment_id)
    if not policy or not policy.backup_cron:
        return replace(fact, detail=_joined(fact.detail, _("none scheduled")))
    due = localtime(next_due(policy.backup_cron, policy.time_zone, now()))
    said = _("next %(when)s") % {"when": date_format(due, "D H:i")}
    return replace(fact, detail=_joined(fact.detail, said))


def _policies_of(environments: list[Environment]) -> dict[int, BackupPolicy]:
    """By environment, of those that have one. Read once for all parts of a page, which share the
    environments."""
    prefetch_related_objects(environments, "backup_policy")
    own = (getattr(environment, "backup_policy", None) for environment in environments)
    return {policy.environment_id: policy for policy in own if policy}


def _joined(*parts: str) -> str:
    return ", ".join(filter(None, parts))


def backup_needs(user: User, stages: list[Stage]) -> Iterable[Need]:
    """What is wrong with the backups of each stage, in one line, and a schedule that is missing."""
    targets = [stage.target for stage in stages]
    policies = _policies_of([stage.environment for stage in stages])
    alarms = alarms_of(targets, policies)
    proven = dict(
        Backup.objects.proven()
        .filter(target__in=targets)
        .order_by()
        .values_list("target")
        .annotate(Max("taken_at"))
    )
    for stage in stages:
        environment, policy = stage.environment, policies.get(stage.environment.pk)
        texts, newest = alarms[stage.target.pk], proven.get(stage.target.pk)
        if not texts and not newest and environment.is_protected:
            texts = [_("No backup is proven yet.")]
        if texts:
            yield _in_trouble(user, environment, texts, is_late=_is_late(policy, newest))
        is_scheduled = policy and policy.backup_cron
        if (
            environment.is_protected
            and not is_scheduled
            and can(user, "settings.edit", environment)
        ):
            yield _unscheduled(environment)


def scheduled(targets: list[Target], until: datetime) -> Iterable[Coming]:
    """The next backup and the next proof of each target."""
    policies = _policies_of([target.environment for target in targets])
    for target in targets:
        policy = policies.get(target.environment_id)
        if not policy:
            continue
        for cron, text, icon in (
            (policy.backup_cron, _("Back up"), "archive"),
            (policy.verify_cron, _("Prove a backup again"), "shield-check"),
        ):
            if cron and (at := next_due(cron, policy.time_zone, now())) <= until:
                url = _address("backup-policy", target.environment)
                yield Coming(at, target.environment, text, url, icon)


def expiring(targets: list[Target], until: datetime) -> Iterable[Coming]:
    """The first deletion of backups in each target, and how many there are till then."""
    found = {
        row["target"]: row
        for row in Backup.objects.filter(
            target__in=targets, deleted_at=None, held_at=None, expires_at__range=(now(), until)
        )
        .order_by()
        .values("target")
        .annotate(at=Min("expires_at"), count=Count("pk"))
    }
    for target in targets:
        if row := found.get(target.pk):
            text = ngettext(
                "Delete %(n)d expired backup, if nobody holds it",
                "Delete %(n)d expired backups, if nobody holds them",
                row["count"],
            )
            url = f"{target.environment.get_absolute_url()}#backups"
            yield Coming(row["at"], target.environment, text % {"n": row["count"]}, url, "trash-2")


def _is_late(policy: BackupPolicy | None, newest: datetime | None) -> bool:
    """Whether another backup is what helps first."""
    hours = policy.alarm_hours if policy else None
    return newest is None or (hours is not None and newest < now() - timedelta(hours=hours))


def _in_trouble(user: User, environment: Environment, texts: list[str], *, is_late: bool) -> Need:
    more = len(texts) - 1
    return Need(
        Concern.UNPROVEN,
        environment,
        texts[0],
        Act(_("Back up now"), _address("back-up", environment), new_key())
        if is_late and can(user, "run.start", environment)
        else Act(_("View backups"), f"{environment.get_absolute_url()}#backups"),
        detail=ngettext("%(n)d more alarm.", "%(n)d more alarms.", more) % {"n": more}
        if more
        else "",
    )


def _unscheduled(environment: Environment) -> Need:
    return Need(
        Concern.UNSCHEDULED,
        environment,
        _("Backups are not scheduled."),
        Act(_("Set a schedule"), _address("backup-policy", environment)),
    )


def _address(name: str, environment: Environment) -> str:
    return reverse(name, args=[environment.application.slug, environment.slug])


def _fact(backup: Backup) -> Fact:
    is_new = now() - backup.taken_at < timedelta(minutes=1)
    age = timesince(backup.taken_at, now(), depth=1)
    return Fact(
        _("Backup"),
        _("proven just now") if is_new else _("proven, %(age)s old") % {"age": age},
        backup.get_absolute_url(),
        detail=_("%(size)s, %(level)s")
        % {"size": size(backup.size_bytes), "level": backup.proof_level.label},
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
    policies = _policies_of([environment])
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
    }
    return render_to_string("backups_app/_run_panel.html", context, request)


def run_ways(request: ConsoleRequest, run: Run) -> SafeString:
    """The ways back of a run that needs a decision, with what each leaves behind."""
    context = {"run": run, "ways": run.result.get("ways", []), "key": new_key()}
    return render_to_string("backups_app/_run_ways.html", context, request)


def after_run(request: ConsoleRequest, run: Run) -> list[NextAct]:
    """Back from what was exchanged or migrated, and a restore once more."""
    if not can(request.user, "restore.start", run.environment):
        return []
    replaced = run.replaced.exclude(swapped_at=None).first()
    if replaced:
        return [_undo(run, replaced)] if replaced.may_be_undone else []
    asked = parameters_of(run)
    is_restore = run.kind == RunKind.RESTORE and isinstance(asked, OfBackup)
    source = asked.backup if is_restore and isinstance(asked, OfBackup) else None
    wanted = source if run.state is not RunStatus.SUCCEEDED else run.result.get("backup")
    if not wanted or run.kind not in {RunKind.MIGRATE, RunKind.RESTORE}:
        return []
    if not Backup.objects.proven().filter(pk=wanted).exists():
        return []
    again = run.state is not RunStatus.SUCCEEDED
    title = _("Try again") if again else _("Go back…")
    return [NextAct(title, reverse("backup-restore", args=[wanted]), is_first=again)]


def _undo(run: Run, replaced: ReplacedDatabase) -> NextAct:
    title = _("Undo this restore")
    if run.kind == RunKind.MIGRATE:
        title = _("Go forward again")
    return NextAct(title, reverse("replaced-undo", args=[replaced.pk]))


def find_backups(user: User, text: str) -> list[Found]:
    """By number, or by a part of the key."""
    number = key_from(text)
    rows = (
        Backup.objects.listed()
        .defer("manifest")
        .filter(Q(pk=number) | Q(key__icontains=text), environment__in=visible_environments(user))
        .order_by(Case(When(pk=number, then=0), default=1), "-pk")[:10]
    )
    return [
        Found(
            _("Backup"),
            f"{b.pk}: {b.key}",
            b.get_absolute_url(),
            "archive",
            is_exact=b.pk == number,
        )
        for b in rows
    ]
