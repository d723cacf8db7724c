"""Verbs of schema change: migrate, and clear a failed migration."""

from __future__ import annotations

from typing import Any

from celery import current_app
from django.conf import settings
from django.utils.translation import gettext as _

from migrations_app.observation import plan_for
from opsconsole.choices import RunKind
from opsconsole.exceptions import Refused
from opsconsole.models import Environment, Plan, Run, TargetState, User
from opsconsole.permissions import authorize
from opsconsole.services import runs

CHECKLIST = (
    ("tested_earlier", _("These migrations ran in the earlier environment")),
    ("staging_validated", _("The application was validated there")),
    ("backup", _("A backup will be taken and proven first")),
    ("rollback_plan", _("There is a way back")),
    ("team_notified", _("The team knows the time of this change")),
    ("monitoring", _("Health is being monitored")),
)


def request_observation(environment: Environment) -> None:
    """Ask a worker to read the target now. Raises Refused when the broker cannot be reached."""
    try:
        current_app.send_task(
            "migrations_app.observe", args=[environment.target.pk],
            queue=settings.SHORT_QUEUE, retry=False,
        )  # fmt: skip
    except Exception as error:  # kombu raises the transport's own errors
        raise Refused(
            _("The database cannot be read now: the broker does not answer."), status=503
        ) from error


def current_plan(environment: Environment) -> tuple[Plan, TargetState]:
    """The plan of the newest state. Raises Refused when there is nothing to run, with why."""
    state = environment.target.latest_state
    if state is None:
        raise Refused(_("The database has not been read yet."))
    if state.error:
        raise Refused(_("The database cannot be read: %(error)s") % {"error": state.error})
    if state.data["refusals"]:
        raise Refused("; ".join(state.data["refusals"]))
    if not state.pending:
        raise Refused(_("%(where)s is up to date: nothing is pending.") % {"where": environment})
    return plan_for(environment.target, state), state


def request_migrate(
    *,
    actor: User,
    environment: Environment,
    plan_hash: str,
    idempotency_key: str,
    reason: str = "",
    typed_name: str = "",
    checklist: dict[str, dict[str, Any]] | None = None,
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
        from migrations_app.observation import plan_changes

        changes = "; ".join(plan_changes(plan.content, current.content))
        raise Refused(_("Not started, because it changed since it was shown: %(changes)s.")
                      % {"changes": changes})  # fmt: skip
    return runs.request_run(
        actor=actor,
        kind=RunKind.MIGRATE,
        environment=environment,
        plan=plan,
        reason=reason,
        idempotency_key=idempotency_key,
        parameters={"checklist": checklist or {}},
    )


def _require_confirmation(
    environment: Environment, typed_name: str, checklist: dict[str, dict[str, Any]]
) -> None:
    if not environment.is_protected:
        return
    if typed_name.strip() != environment.slug:
        raise Refused(
            _("Type the environment's name, %(name)s, to confirm.") % {"name": environment.slug},
            status=422,
        )
    missing = [str(text) for key, text in CHECKLIST if not checklist.get(key, {}).get("ok")]
    if missing:
        raise Refused(
            _("Not confirmed yet: %(items)s.") % {"items": "; ".join(missing)}, status=422
        )


def request_resolution(
    *, actor: User, environment: Environment, name: str, mark: str, reason: str,
    idempotency_key: str,
) -> Run:  # fmt: skip
    """Queue a run that marks a failed migration rolled back or applied, without running it."""
    authorize(actor, "migration.resolve", environment)
    if mark not in {"rolled_back", "applied"}:
        raise Refused(_("Choose to mark it rolled back or applied."), status=422)
    if not reason.strip():
        raise Refused(_("Say why: the reason is kept with the run."), status=422)
    return runs.request_run(
        actor=actor,
        kind=RunKind.MIGRATE,
        environment=environment,
        reason=reason,
        idempotency_key=idempotency_key,
        parameters={"resolve": name, "mark": mark},
    )
