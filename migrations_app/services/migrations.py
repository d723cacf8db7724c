"""Verbs of schema change: migrate, and clear a failed migration."""

from __future__ import annotations

from dataclasses import dataclass

from django.conf import settings
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from migrations_app.gates import (
    ChecklistAnswered,
    FindingsAnswered,
    HistoryHealthy,
    PlanCurrent,
    SomethingPending,
)
from migrations_app.parameters import Answer, MigrateParameters
from migrations_app.reading.observation import plan_changes, plan_for
from migrations_app.reading.readings import reading_of
from migrations_app.services.findings import stopping
from opsconsole.access.models import User
from opsconsole.access.permissions import authorize
from opsconsole.environments.migration_status import MigrationStatus
from opsconsole.environments.models import Target, TargetState
from opsconsole.environments.services import require_typed_name
from opsconsole.exceptions import Kind, Refused
from opsconsole.health.choices import Health
from opsconsole.health.services import health_days
from opsconsole.language import in_english
from opsconsole.runs import services as runs
from opsconsole.runs.gates import FreshReading, Gate, in_the_way, judge
from opsconsole.runs.models import Plan, Run
from opsconsole.work.sending import send_short, task_key

OBSERVE = task_key("migrations_app.observe")
# The database is read every OBSERVE_SECONDS; after so many that did not come, nothing is started.
READINGS_MISSED = 10
CHECKLIST = (
    ("tested_earlier", gettext_lazy("These migrations ran in the earlier environment")),
    ("staging_validated", gettext_lazy("The application was validated there")),
    ("backup", gettext_lazy("A backup will be taken and proven first")),
    ("rollback_plan", gettext_lazy("There is a way back")),
    ("team_notified", gettext_lazy("The team knows the time of this change")),
    ("monitoring", gettext_lazy("Health is being monitored")),
)


def request_observation(target: Target) -> None:
    """Ask a worker to read the target now. Raises Refused when the broker cannot be reached."""
    if not send_short(OBSERVE, target.pk):
        raise Refused(
            _("The database cannot be read now: the broker does not answer."), kind=Kind.UNAVAILABLE
        )


def plan_gates(target: Target) -> list[Gate]:
    """What has to hold before any plan is applied there, by the newest state that was read."""
    state = target.latest_state
    reading = reading_of(state)
    page = target.environment.get_absolute_url()
    return [
        FreshReading(
            state.observed_at if state else None,
            state.error if state else "",
            settings.OBSERVE_SECONDS * READINGS_MISSED,
        ),
        HistoryHealthy(reading.refusals, page),
        FindingsAnswered(
            tuple(stopping(target.environment.application, reading.migrations)), f"{page}#pending"
        ),
        *(
            [SomethingPending(str(target.environment), len(state.pending))]
            if state and state.data
            else []
        ),
    ]


def confirmation_gates(
    target: Target, plan: Plan | None, checklist: dict[str, Answer]
) -> list[Gate]:
    """What has to hold of what was confirmed: the plan as it was shown, and the checklist."""
    found = reading_of(target.latest_state).plan
    changes = plan_changes(plan.content, found) if plan and found else []
    missing = [
        str(text)
        for key, text in CHECKLIST
        if target.environment.is_protected and not (key in checklist and checklist[key].ok)
    ]
    return [PlanCurrent(tuple(changes)), ChecklistAnswered(tuple(missing))]


def current_plan(target: Target) -> tuple[Plan, TargetState]:
    """The plan of the newest state. Raises Refused when there is nothing to run, with why."""
    stop = in_the_way(judge(plan_gates(target), timezone.now()))
    if stop:
        raise Refused(stop.told)
    state = target.latest_state
    assert state is not None
    return plan_for(target, state), state


@dataclass(frozen=True)
class ChecklistItem:
    """One line of the pre-deployment checklist; `evidence` is what the console knows itself."""

    key: str
    text: str
    is_known: bool = False
    evidence: str = ""
    url: str = ""


def checklist_for(target: Target, pending: list[str]) -> list[ChecklistItem]:
    """The checklist, with what the console can answer filled in and linked."""
    environment = target.environment
    before = list(
        Target.objects.shown().filter(
            environment__application=environment.application,
            environment__position__lt=environment.position,
        )
    )
    earlier = [each for each in before if each.environment == before[-1].environment]
    known = {
        "backup": (environment.takes_backup, _("part of this run"), ""),
        "rollback_plan": (
            environment.takes_backup,
            _("the proven backup is swapped in if it fails"),
            "",
        ),
        "monitoring": (
            environment.health_checks.filter(is_enabled=True).exists(),
            _("checked every minute and through the run"),
            environment.get_absolute_url() + "#health",
        ),
        **(_known_of_earlier(earlier, pending) if earlier else {}),
    }
    return [
        ChecklistItem(key, str(text), *known.get(key, (False, "", ""))) for key, text in CHECKLIST
    ]


def _known_of_earlier(targets: list[Target], pending: list[str]) -> dict[str, tuple]:
    """What the targets of the environment before show."""
    earlier = targets[0].environment
    are_applied = all(_applied_in(target).issuperset(pending) for target in targets)
    health = health_days([earlier])[earlier.pk]
    url = earlier.get_absolute_url()
    return {
        "tested_earlier": (
            are_applied,
            _("all applied in %(where)s") % {"where": earlier.name.lower()},
            url,
        ),
        "staging_validated": (
            health.now is Health.HEALTHY and are_applied,
            _("%(where)s is healthy with them") % {"where": earlier.name.lower()},
            url + "#health",
        ),
    }


def _applied_in(target: Target) -> set[str]:
    state = target.latest_state
    return set(state.names(MigrationStatus.APPLIED)) if state and not state.error else set()


def complete_checklist(
    target: Target, pending: list[str], ticked: dict[str, str]
) -> dict[str, Answer]:
    """What is kept with the run: known items with their evidence, the rest as ticked with a note.

    `ticked` maps the key of each ticked item to its note; an empty note does not count.
    """
    with in_english():
        items = checklist_for(target, pending)
    kept = {}
    for item in items:
        note = ticked.get(item.key, "").strip()
        kept[item.key] = Answer(
            text=item.text,
            ok=item.is_known or bool(note),
            by="console" if item.is_known else "person",
            note=item.evidence if item.is_known else note,
        )
    return kept


def request_migrate(
    *,
    actor: User,
    target: Target,
    plan_hash: str,
    idempotency_key: str,
    reason: str = "",
    typed_name: str = "",
    checklist: dict[str, Answer] | None = None,
) -> Run:
    """Queue a migrate run of exactly the plan that was shown.

    Raises Refused (conflict) when the plan is no longer that one, and (invalid) when a protected
    environment's name or checklist is missing.
    """
    authorize(actor, "run.start", target.environment)
    before = Run.objects.filter(idempotency_key=idempotency_key, requested_by=actor).first()
    if before:
        return before
    # A confirmation by hand, of this request alone: it is not stored, and no gate.
    if target.environment.is_protected:
        require_typed_name(target.environment, typed_name)
    plan = Plan.objects.filter(target=target, hash=plan_hash).first()
    if plan is None:
        raise Refused(_("This plan was never shown. Open the confirm page again."))
    return runs.request_run(
        actor=actor,
        target=target,
        plan=plan,
        reason=reason,
        idempotency_key=idempotency_key,
        parameters=MigrateParameters(
            checklist=checklist or {}, commit=plan.content.get("commit", "")
        ),
    )
