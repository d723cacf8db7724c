"""The migrations' parts of the platform's pages."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import cast

from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from migrations_app.engines import ENGINES
from migrations_app.forms import BoardFilterForm
from migrations_app.parameters import MigrateParameters
from migrations_app.reading.drift import Comparison, comparisons_of, drifts_of
from migrations_app.reading.matrix import read_board, read_names, url_of
from migrations_app.reading.readings import reading_of
from migrations_app.services import doctor
from migrations_app.services.drift import sql_of
from migrations_app.services.findings import as_shown
from opsconsole.access.http import ConsoleRequest
from opsconsole.access.models import User
from opsconsole.access.permissions import can
from opsconsole.access.places import CONSOLE
from opsconsole.environments import engines
from opsconsole.environments.migration_status import MigrationStatus
from opsconsole.environments.models import Application, Environment, Target, TargetState
from opsconsole.environments.readings import BaselineMissing
from opsconsole.environments.visibility import (
    applications_for,
    visible_targets,
)
from opsconsole.health.choices import Health
from opsconsole.overview.panels import (
    APPLICATION_PANELS,
    CHANGES,
    ENVIRONMENT_ACTIONS,
    ENVIRONMENT_FACTS,
    ENVIRONMENT_PANELS,
    ENVIRONMENT_TILES,
    FINDERS,
    FIRST_STEPS,
    NEEDS,
    SETTINGS_PANELS,
    Act,
    Concern,
    Fact,
    FirstStep,
    Found,
    Need,
    PartRefused,
    Stage,
)
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.models import Run
from opsconsole.runs.panels import NEXT_ACTS, RUN_PANELS, NextAct
from opsconsole.runs.registry import parameters_of
from opsconsole.web.pages import new_key

LOGGED = 10
TROUBLED_NAMED = 3


def register() -> None:
    ENVIRONMENT_ACTIONS.append(migrate_button)
    ENVIRONMENT_PANELS.insert(0, migrations_card)
    ENVIRONMENT_PANELS.append(drift_card)
    ENVIRONMENT_FACTS.append(drift_facts)
    ENVIRONMENT_TILES.append(drift_tile)
    APPLICATION_PANELS.append(board_card)
    RUN_PANELS.append(run_migrations)
    NEXT_ACTS.append(after_run)
    FINDERS.append(find_migrations)
    NEEDS.append(migration_needs)
    CHANGES.append(migrate_acts)
    FIRST_STEPS.append(first_migration)
    SETTINGS_PANELS.append(migrations_settings)
    engines.ENGINES.extend((name, gettext_lazy(engine.label)) for name, engine in ENGINES.items())


def migrate_button(request: ConsoleRequest, target: Target) -> SafeString:
    state = target.latest_state
    context = {
        "environment": target.environment,
        "state": state,
        "is_refused": bool(reading_of(state).refusals),
    }
    return render_to_string("migrations_app/_environment_action.html", context, request)


def migrations_card(request: ConsoleRequest, target: Target) -> SafeString:
    environment, state = target.environment, target.latest_state
    reading = reading_of(state)
    pending = [m for m in reading.migrations if m.state.is_pending]
    context = {
        "environment": environment,
        "state": state,
        "reading": reading,
        "pending": as_shown(environment, pending),
        "diagnoses": doctor.diagnose(target, state),
        "holder": doctor.lock_holder(state),
        "tool": ENGINES[environment.application.engine].tool,
        "applied": [m for m in reversed(reading.migrations) if m.state is MigrationStatus.APPLIED],
        "key": new_key(),
    }
    return render_to_string("migrations_app/_environment_panel.html", context, request)


def _compared(target: Target) -> Comparison:
    """Read once for all parts of a page, which share the target."""
    read = vars(target)
    if "compared" not in read:
        read["compared"] = comparisons_of([target])[target.pk]
    return cast("Comparison", read["compared"])


def drift_card(request: ConsoleRequest, target: Target) -> SafeString:
    compared = _compared(target)
    drift = compared.drift
    log = drift.log if drift else []
    context = {
        "environment": target.environment,
        "drift": drift,
        "entries": [entry | {"at": datetime.fromisoformat(entry["at"])} for entry in log[:LOGGED]],
        "more": len(log[LOGGED:]),
        "left_out": sql_of(drift).left_out if drift else [],
        "reading": compared.reading,
        "expected": compared.expected,
        "key": new_key(),
    }
    return render_to_string("migrations_app/_drift.html", context, request)


def migrate_acts(user: User, stages: list[Stage]) -> dict[int, Act]:
    """To the confirm page, where something is pending, nothing is in its way, and the user may."""
    return {
        stage.target.pk: Act(
            _("Migrate %(where)s: %(n)d pending")
            % {"where": stage.environment.name.lower(), "n": len(stage.state.pending)},
            reverse("migrate", args=[stage.environment.application.slug, stage.environment.slug]),
        )
        for stage in stages
        if stage.state
        and stage.state.pending
        and not (stage.holder or stage.moving)
        and can(user, "run.start", stage.environment)
        and not reading_of(stage.state).refusals
    }


def first_migration(user: User, target: Target) -> FirstStep:
    environment, state = target.environment, target.latest_state
    pending = len(state.pending) if state else 0
    text = (
        ngettext("%(n)d migration is pending.", "%(n)d migrations are pending.", pending)
        % {"n": pending}
        if pending
        else _("Nothing is pending.")
    )
    may = can(user, "run.start", environment) and not reading_of(state).refusals
    return FirstStep(
        text, not pending, Act(_("Migrate"), _migrate_url(environment)) if may else None
    )


def migration_needs(user: User, stages: list[Stage]) -> Iterable[Need]:
    acts = migrate_acts(user, stages)
    before: Stage | None = None
    for stage in stages:
        if stage.state:
            if stage.state.troubled and not stage.holder:
                yield _troubled(user, stage, stage.state)
            elif stage.state.seen.baseline:
                yield _baseline(stage, stage.state.seen.baseline)
            elif stage.target.pk in acts and before and _went_well(before, stage):
                yield _waiting(stage, before, acts[stage.target.pk])
        before = stage


def _troubled(user: User, stage: Stage, state: TargetState) -> Need:
    may = can(user, "migration.resolve", stage.environment)
    url = stage.environment.get_absolute_url()
    count = len(state.troubled)
    return Need(
        Concern.TROUBLED,
        stage.environment,
        ngettext("%(n)d migration is in trouble.", "%(n)d migrations are in trouble.", count)
        % {"n": count},
        Act(_("Resolve"), url) if may else Act(_("View environment"), url),
        detail=", ".join(f"{m.name} ({_(m.state.word)})" for m in state.troubled[:TROUBLED_NAMED]),
    )


def _baseline(stage: Stage, missing: BaselineMissing) -> Need:
    return Need(
        Concern.BASELINE,
        stage.environment,
        _("The database needs a baseline."),
        Act(_("View environment"), f"{stage.environment.get_absolute_url()}#pending"),
        detail=_("It has tables, such as %(table)s, and no migration history.")
        % {"table": missing.table},
    )


def _went_well(before: Stage, stage: Stage) -> bool:
    """Whether everything that is pending is applied in the stage before, and healthy there."""
    return (
        before.environment.application_id == stage.environment.application_id
        and before.state is not None
        and stage.state is not None
        and before.day.now is Health.HEALTHY
        and set(stage.state.pending) <= set(before.state.names(MigrationStatus.APPLIED))
    )


def _waiting(stage: Stage, before: Stage, act: Act) -> Need:
    count = len(stage.state.pending) if stage.state else 0
    return Need(
        Concern.WAITING,
        stage.environment,
        ngettext(
            "%(n)d migration waits for %(where)s.", "%(n)d migrations wait for %(where)s.", count
        )
        % {"n": count, "where": stage.environment.name.lower()},
        act,
        detail=ngettext(
            "It is applied in %(where)s, which is healthy.",
            "They are applied in %(where)s, which is healthy.",
            count,
        )
        % {"where": before.environment.name.lower()},
    )


def drift_facts(targets: list[Target]) -> dict[int, Fact]:
    """Only where there is drift: its absence is no news."""
    found = drifts_of(targets)
    return {
        target.pk: _drifted(target, count)
        for target in targets
        if target.pk in found and (count := len(found[target.pk].changes))
    }


def drift_tile(target: Target) -> Fact:
    compared = _compared(target)
    if compared.drift and compared.drift.changes:
        return _drifted(target, len(compared.drift.changes))
    if compared.reading is None:
        return Fact(_("Schema"), _("not read yet"), "#drift")
    return Fact(_("Schema"), _("as expected"), "#drift", read_at=compared.reading.last_read_at)


def _drifted(target: Target, count: int) -> Fact:
    return Fact(
        _("Schema"),
        ngettext("%(n)d object drifted", "%(n)d objects drifted", count) % {"n": count},
        f"{target.environment.get_absolute_url()}#drift",
        "warn",
    )


def board_card(
    request: ConsoleRequest, application: Application, targets: list[Target]
) -> SafeString:
    form = BoardFilterForm(request.GET or {})
    given = form.cleaned_data if form.is_valid() else {}
    text, chosen = given.get("q", ""), given.get("state", "")
    context = {
        "board": read_board(targets, state=chosen, text=text),
        "form": form,
        "text": text,
        "chosen": chosen,
    }
    card = render_to_string("migrations_app/_board.html", context, request)
    return card if form.is_valid() else PartRefused(card)


def run_migrations(request: ConsoleRequest, run: Run) -> SafeString:
    asked = parameters_of(run)
    context = {
        "run": run,
        "failed": run.result.get("failed_script"),
        "diagnoses": _diagnoses(run),
        "landed": run.result.get("landed", []),
        "changes": run.result.get("schema_changes"),
        "checklist": asked.checklist if isinstance(asked, MigrateParameters) else {},
        "commit": asked.commit if isinstance(asked, MigrateParameters) else "",
        "key": new_key(),
    }
    return render_to_string("migrations_app/_run_panel.html", context, request)


def _diagnoses(run: Run) -> list[doctor.Diagnosis]:
    """The ways out of what this run left failed, once it has ended."""
    failed = run.result.get("failed_script")
    if not failed or not run.state.is_terminal:
        return []
    found = doctor.diagnose(run.target, run.target.latest_state)
    return [d for d in found if d.name == failed["name"] and d.state is MigrationStatus.FAILED]


def after_run(request: ConsoleRequest, run: Run) -> list[NextAct]:
    """The same in the next environment, or what failed, and the migration once more."""
    if run.operation != MigrateParameters.operation:
        return []
    if run.state is RunStatus.SUCCEEDED:
        return _in_next_environment(request.user, run)
    failed = run.result.get("failed_script")
    acts = [_migrate_again(run)] if _is_still_wanted(request.user, run) else []
    if failed:
        url = url_of(run.environment, failed["name"])
        acts.append(NextAct(_("Open migration"), url, is_first=True))
    return acts


def _in_next_environment(user: User, run: Run) -> list[NextAct]:
    environment = run.environment
    following = visible_targets(user).filter(
        environment__application=environment.application,
        environment__position__gt=environment.position,
    )
    target = following.order_by("environment__position").first()
    if target is None or not can(user, "run.start", target.environment):
        return []
    state = target.latest_state
    pending = state.pending if state and not state.error else []
    if not pending:
        return []
    words = {"where": target.environment.name.lower(), "count": len(pending)}
    if set(pending) == set(run.applied):
        title = _("Migrate %(where)s: same %(count)d") % words
    else:
        title = _("Migrate %(where)s: %(count)d pending") % words
    return [NextAct(title, _migrate_url(target.environment), is_first=True)]


def _is_still_wanted(user: User, run: Run) -> bool:
    state = run.target.latest_state
    is_pending = bool(state and not state.error and state.pending)
    return is_pending and can(user, "run.start", run.environment)


def _migrate_again(run: Run) -> NextAct:
    is_first = not run.result.get("failed_script")
    return NextAct(_("Try again"), _migrate_url(run.environment), is_first=is_first)


def _migrate_url(environment: Environment) -> str:
    return reverse("migrate", args=[environment.application.slug, environment.slug])


def migrations_settings(request: ConsoleRequest) -> SafeString:
    applications = applications_for(request.user, "settings.edit")
    if not applications and not can(request.user, "settings.edit", CONSOLE):
        return SafeString("")
    context = {"applications": applications.select_related("repository")}
    return render_to_string("migrations_app/_settings_panel.html", context, request)


def find_migrations(user: User, text: str) -> list[Found]:
    targets = visible_targets(user)
    names = read_names(targets)
    found = [
        Found(
            _("Migration"),
            f"{name}, {target.environment}",
            url_of(target.environment, name),
            "file-code",
        )
        for target in targets
        for name in names.get(target.pk, [])
        if text.lower() in name.lower()
    ]
    return found[:30]
