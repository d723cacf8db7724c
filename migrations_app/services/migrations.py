"""Verbs of schema change: migrate, and clear a failed migration."""

from __future__ import annotations

from dataclasses import dataclass

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from migrations_app.observation import plan_changes, plan_for
from migrations_app.parameters import Answer, MigrateParameters
from migrations_app.services.findings import stopping
from opsconsole.choices import Health
from opsconsole.exceptions import Refused
from opsconsole.models import Environment, Plan, Run, TargetState, User
from opsconsole.permissions import authorize
from opsconsole.services import runs
from opsconsole.services.environments import require_typed_name
from opsconsole.services.health import health_days

CHECKLIST = (
    ("tested_earlier", gettext_lazy("These migrations ran in the earlier environment")),
    ("staging_validated", gettext_lazy("The application was validated there")),
    ("backup", gettext_lazy("A backup will be taken and proven first")),
    ("rollback_plan", gettext_lazy("There is a way back")),
    ("team_notified", gettext_lazy("The team knows the time of this change")),
    ("monitoring", gettext_lazy("Health is being monitored")),
)


def request_observation(environment: Environment) -> None:
    """Ask a worker to read the target now. Raises Refused when the broker cannot be reached."""
    if not runs.send_short("migrations_app.observe", environment.target.pk):
        raise Refused(_("The database cannot be read now: the broker does not answer."), status=503)


def current_plan(environment: Environment) -> tuple[Plan, TargetState]:
    """The plan of the newest state. Raises Refused when there is nothing to run, with why."""
    state = environment.target.latest_state
    if state is None:
        raise Refused(_("The database has not been read yet."))
    if state.error:
        raise Refused(_("The database cannot be read: %(error)s") % {"error": state.error})
    if state.data["refusals"]:
        raise Refused("; ".join(state.data["refusals"]))
    stops = stopping(environment.application, state.data["migrations"])
    if stops:
        raise Refused("; ".join(stops))
    if not state.pending:
        raise Refused(_("%(where)s is up to date: nothing is pending.") % {"where": environment})
    return plan_for(environment.target, state), state


@dataclass(frozen=True)
class ChecklistItem:
    """One line of the pre-deployment checklist; `evidence` is what the console knows itself."""

    key: str
    text: str
    is_known: bool = False
    evidence: str = ""
    url: str = ""


def checklist_for(environment: Environment, pending: list[str]) -> list[ChecklistItem]:
    """The checklist, with what the console can answer filled in and linked."""
    earlier = (
        Environment.objects.shown()
        .filter(application=environment.application, position__lt=environment.position)
        .last()
    )
    known = {
        "backup": (environment.takes_backup, _("part of this run"), ""),
        "rollback_plan": (
            environment.takes_backup, _("the proven backup is swapped in if it fails"), "",
        ),
        "monitoring": (
            environment.health_checks.filter(is_enabled=True).exists(),
            _("checked every minute and through the run"),
            environment.get_absolute_url() + "#health",
        ),
        **(_known_of_earlier(earlier, pending) if earlier else {}),
    }  # fmt: skip
    return [
        ChecklistItem(key, str(text), *known.get(key, (False, "", ""))) for key, text in CHECKLIST
    ]


def _known_of_earlier(earlier: Environment, pending: list[str]) -> dict[str, tuple]:
    state = earlier.target.latest_state
    applied = set(state.names("applied")) if state and not state.error else set()
    health = health_days([earlier])[earlier.pk]
    url = earlier.get_absolute_url()
    return {
        "tested_earlier": (
            applied.issuperset(pending),
            _("all applied in %(where)s") % {"where": earlier.name.lower()}, url,
        ),
        "staging_validated": (
            health.now is Health.HEALTHY and applied.issuperset(pending),
            _("%(where)s is healthy with them") % {"where": earlier.name.lower()},
            url + "#health",
        ),
    }  # fmt: skip


def complete_checklist(
    environment: Environment, pending: list[str], ticked: dict[str, str]
) -> dict[str, Answer]:
    """What is kept with the run: known items with their evidence, the rest as ticked with a note.

    `ticked` maps the key of each ticked item to its note; an empty note does not count.
    """
    kept = {}
    for item in checklist_for(environment, pending):
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
    environment: Environment,
    plan_hash: str,
    idempotency_key: str,
    reason: str = "",
    typed_name: str = "",
    checklist: dict[str, Answer] | None = None,
) -> Run:
    """Queue a migrate run of exactly the plan that was shown.

    Raises Refused (409) when the plan is no longer that one, and (422) when a protected
    environment's name or checklist is missing.
    """
    authorize(actor, "run.start", environment)
    before = Run.objects.filter(idempotency_key=idempotency_key, requested_by=actor).first()
    if before:
        return before
    _require_confirmation(environment, typed_name, checklist or {})
    plan = Plan.objects.filter(target=environment.target, hash=plan_hash).first()
    if plan is None:
        raise Refused(_("This plan was never shown. Open the confirm page again."))
    current, _state = current_plan(environment)
    if current.hash != plan_hash:
        changes = "; ".join(plan_changes(plan.content, current.content))
        if changes:
            raise Refused(_("Not started, because it changed since it was shown: %(changes)s.")
                          % {"changes": changes})  # fmt: skip
    return runs.request_run(
        actor=actor,
        environment=environment,
        plan=plan,
        reason=reason,
        idempotency_key=idempotency_key,
        parameters=MigrateParameters(
            checklist=checklist or {}, commit=plan.content.get("commit", "")
        ),
    )


def _require_confirmation(
    environment: Environment, typed_name: str, checklist: dict[str, Answer]
) -> None:
    if not environment.is_protected:
        return
    require_typed_name(environment, typed_name)
    missing = [
        str(text) for key, text in CHECKLIST if key not in checklist or not checklist[key].ok
    ]
    if missing:
        raise Refused(
            _("Not confirmed yet: %(items)s.") % {"items": "; ".join(missing)},
            status=422, field="checklist",
        )  # fmt: skip
