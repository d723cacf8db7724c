"""Verbs on drift: read it now, acknowledge it, adopt it as a migration."""

from __future__ import annotations

import re

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from migrations_app import events
from migrations_app.assess.schema_sql import Written, write_sql
from migrations_app.engines import ENGINES
from migrations_app.models import ExpectedSchema
from migrations_app.parameters import AdoptDriftParameters
from migrations_app.reading.drift import Drift, drift_of, expect
from migrations_app.reading.observation import store_scripts
from opsconsole.access.models import User
from opsconsole.access.permissions import authorize
from opsconsole.environments.models import Target
from opsconsole.events import recording as audit
from opsconsole.events.reasons import require_reason
from opsconsole.exceptions import Kind, Refused
from opsconsole.runs import services as runs
from opsconsole.runs.models import Run
from opsconsole.work.sending import send_short, task_key

CHECK_DRIFT = task_key("migrations_app.check_drift")
TITLE = re.compile(r"[a-z0-9][a-z0-9_]{0,60}")


def request_check(target: Target) -> None:
    """Ask a worker to read the schema now. Raises Refused when the broker cannot be reached."""
    if not send_short(CHECK_DRIFT, target.pk):
        raise Refused(
            _("The schema cannot be read now: the broker does not answer."), kind=Kind.UNAVAILABLE
        )


def sql_of(drift: Drift) -> Written:
    """The SQL that makes in another database what has drifted in this one."""
    return write_sql(drift.expected.schema.definitions, drift.reading.schema.definitions)


def acknowledge(*, actor: User, target: Target, schema: str, reason: str) -> None:
    """Expect the schema as it is. `schema` is the hash of the one that was shown.

    Raises Refused (invalid) without a reason, (conflict) when it is no longer the one shown.
    """
    authorize(actor, "drift.acknowledge", target.environment)
    drift = _shown_drift(target, schema, reason)
    with transaction.atomic():
        expect(
            target,
            drift.reading.schema,
            ExpectedSchema.Because.ACKNOWLEDGED,
            accepted_by=actor,
            reason=reason.strip(),
        )
        audit.record(
            events.DRIFT_ACKNOWLEDGED,
            actor=actor,
            environment=target.environment,
            about=target.environment,
            reason=reason.strip(),
            data=_data(drift),
        )


def request_adoption(
    *,
    actor: User,
    target: Target,
    schema: str,
    title: str,
    reason: str,
    idempotency_key: str,
) -> Run:
    """Queue a run that records the drift as an applied migration, whose text is written here.

    `title` becomes the end of its name. Raises Refused (invalid) for a bad title or no reason,
    (conflict) when the drift is no longer the one shown or cannot be written as SQL without
    guessing.
    """
    authorize(actor, "migration.resolve", target.environment)
    if not TITLE.fullmatch(title):
        raise Refused(
            _("Name it with small letters, digits and underscores, such as add_phone."),
            kind=Kind.INVALID,
            field="title",
        )
    drift = _shown_drift(target, schema, reason)
    written = sql_of(drift)
    if written.left_out:
        raise Refused(
            _(
                "This cannot be written without guessing: %(what)s. Download the SQL, complete it "
                "as a migration of your own, and mark that applied here."
            )
            % {"what": "; ".join(written.left_out)}
        )
    name = f"{timezone.now():%Y%m%d%H%M%S}_{title}"
    engine = ENGINES[target.environment.application.engine]
    script = engine.script_of(name, engine.draft_text(written.sql))
    if script.refusal:
        raise Refused(
            _("%(tool)s could not read this as a migration: %(why)s.")
            % {"tool": engine.tool, "why": script.refusal}
        )
    store_scripts([script])
    return runs.request_run(
        actor=actor,
        target=target,
        reason=reason,
        idempotency_key=idempotency_key,
        parameters=AdoptDriftParameters(
            migration=name, checksum=script.checksum, shown_schema=schema
        ),
    )


def _shown_drift(target: Target, schema: str, reason: str) -> Drift:
    require_reason(reason)
    drift = drift_of(target)
    if drift is None or drift.reading.schema_id != schema:
        raise Refused(_("The schema is no longer the one that was shown. Look at it again."))
    return drift


def _data(drift: Drift) -> events.DriftAcknowledged:
    return events.DriftAcknowledged(
        expected=drift.expected.schema_id,
        live=drift.reading.schema_id,
        changes=[f"{change.sign} {change.name}" for change in drift.changes],
    )
