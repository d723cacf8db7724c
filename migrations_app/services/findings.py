"""Findings as an application takes them: levels per rule, waivers per text, and what they stop."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import transaction
from django.utils.translation import gettext as _

from migrations_app import events
from migrations_app.assess.lint import RULES, Level
from migrations_app.models import LintLevel, ScriptText, Waiver
from migrations_app.reading.readings import MigrationRead, reading_of
from opsconsole.access.models import User
from opsconsole.access.permissions import authorize
from opsconsole.environments.models import Application, Environment, Target
from opsconsole.events import recording as audit
from opsconsole.events.catalogue import Changed
from opsconsole.events.reasons import require_reason
from opsconsole.exceptions import Kind, Refused


@dataclass(frozen=True)
class JudgedFinding:
    """A finding with the level the application gives its rule, and who answers for it."""

    rule: str
    line: int
    text: str
    advice: str
    level: Level
    waiver: Waiver | None

    @property
    def stops(self) -> bool:
        return self.level is Level.BLOCK and self.waiver is None


def levels_of(application: Application) -> dict[str, Level]:
    """The level of every rule, as the application's admin set it or as the rule brings it."""
    chosen = dict(LintLevel.objects.filter(application=application).values_list("rule", "level"))
    return {rule: Level(chosen.get(rule, level)) for rule, level in RULES.items()}


def judge(
    application: Application, migrations: Iterable[MigrationRead]
) -> dict[str, list[JudgedFinding]]:
    """The findings that are not off, by migration name. Two queries for all of them."""
    found = [m for m in migrations if m.findings]
    if not found:
        return {}
    levels = levels_of(application)
    waivers = {
        (waiver.migration, waiver.checksum, waiver.rule): waiver
        for waiver in Waiver.objects.filter(
            application=application, migration__in=[m.name for m in found]
        ).select_related("waived_by")
    }
    return {
        m.name: [
            JudgedFinding(
                **vars(finding),
                level=levels[finding.rule],
                waiver=waivers.get((m.name, m.checksum, finding.rule)),
            )
            for finding in m.findings
            if levels.get(finding.rule, Level.OFF) is not Level.OFF
        ]
        for m in found
    }


def stopping(application: Application, migrations: Iterable[MigrationRead]) -> list[str]:
    """Why findings stop a migrate run, one line each; empty when they do not."""
    return [
        _("%(name)s line %(line)d: %(text)s Waive it with a reason, or change the migration")
        % {"name": name, "line": finding.line, "text": finding.text}
        for name, judged in judge(application, migrations).items()
        for finding in judged
        if finding.stops
    ]


def waive_finding(*, actor: User, target: Target, migration: str, rule: str, reason: str) -> Waiver:
    """Answer for a rule's findings in the migration's present text, in every environment: it takes the
    right on the application.

    Raises Refused (not found) for a finding that is not there, (invalid) without a reason.
    """
    authorize(actor, "finding.waive", target.environment.application)
    require_reason(reason)
    reading = reading_of(target.latest_state)
    found = next(
        (
            m
            for m in reading.migrations
            if m.name == migration and rule in {f.rule for f in m.findings}
        ),
        None,
    )
    if found is None:
        raise Refused(
            _("This finding is no longer there. Open the migration again."), kind=Kind.NOT_FOUND
        )
    with transaction.atomic():
        waiver, _created = Waiver.objects.update_or_create(
            application=target.environment.application,
            migration=migration,
            checksum=found.checksum,
            rule=rule,
            defaults={"reason": reason.strip(), "waived_by": actor},
        )
        audit.record(
            events.FINDING_WAIVED,
            actor=actor,
            environment=target.environment,
            about=waiver,
            reason=reason.strip(),
            data=events.FindingWaived(migration=migration, rule=rule),
        )
    return waiver


def withdraw_waiver(*, actor: User, environment: Environment, waiver: Waiver) -> None:
    """Take a waiver back: its findings stand again."""
    authorize(actor, "finding.waive", environment.application)
    with transaction.atomic():
        audit.record(
            events.WAIVER_WITHDRAWN,
            actor=actor,
            environment=environment,
            about=waiver,
            data=events.WaiverWithdrawn(
                migration=waiver.migration, rule=waiver.rule, reason=waiver.reason
            ),
        )
        waiver.delete()


def set_levels(*, actor: User, application: Application, levels: dict[str, str]) -> None:
    """Set what findings of each rule do. Raises Refused (invalid) for an unknown rule or level."""
    authorize(actor, "settings.edit", application)
    unknown = [
        f"{rule}: {level}"
        for rule, level in levels.items()
        if rule not in RULES or level not in set(Level)
    ]
    if unknown:
        raise Refused(
            _("No such rule or level: %(what)s.") % {"what": ", ".join(unknown)}, kind=Kind.INVALID
        )
    before = levels_of(application)
    changed = {rule: level for rule, level in levels.items() if before[rule] != level}
    if not changed:
        return
    with transaction.atomic():
        for rule, level in changed.items():
            LintLevel.objects.update_or_create(
                application=application, rule=rule, defaults={"level": level}
            )
        audit.record(
            events.LEVELS_SET,
            actor=actor,
            about=application,
            data=Changed(before={rule: before[rule] for rule in changed}, after=changed),
        )


def as_shown(environment: Environment, migrations: Sequence[MigrationRead]) -> list[dict[str, Any]]:
    """Each migration of a reading with its text and judged findings: three queries for all."""
    texts = ScriptText.objects.in_bulk([m.checksum for m in migrations])
    judged = judge(environment.application, migrations)
    return [
        dict(m)
        | {
            "sql": texts[m.checksum].sql if m.checksum in texts else "",
            "findings": judged.get(m.name, []),
            "open_findings": [f for f in judged.get(m.name, []) if not f.waiver],
        }
        for m in migrations
    ]
