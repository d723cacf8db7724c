"""Findings about a migration: squawk's, and what its impact on this environment says by itself.

Source of the rules' meaning: squawk's documentation of each (squawkhq.com/docs/rules).
"""

from __future__ import annotations

import json
import subprocess
import sys
from bisect import bisect_right
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any

from migrations_app.assess.effects import LockMode
from migrations_app.assess.impact import WORK_OF_A_MOMENT, Risk, StatementImpact, impact_of, risk_of
from migrations_app.engines.kinds import MigrationScript
from migrations_app.engines.statements import values_used_at_once
from opsconsole.exceptions import AdapterError
from opsconsole.formats import size
from opsconsole.targets.relations import Catalogue

TOOL = str(Path(sys.executable).parent / "squawk")
TOOL_SECONDS = 20
MOST_CHARACTERS = 1_000_000


class Level(StrEnum):
    """What a finding of a rule does: nothing, be shown, or stop a migrate until it is waived."""

    OFF = "off"
    WARN = "warn"
    BLOCK = "block"


@dataclass(frozen=True)
class Finding:
    """One finding at the statement that starts at `line`."""

    rule: str
    line: int
    text: str
    advice: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


# The console's own rules, then squawk's; the level each has until an application sets another.
RULES = {
    "destroys-data": Level.WARN,
    "breaks-application": Level.WARN,
    "blocks-while-working": Level.WARN,
    "changes-many-rows": Level.WARN,
    "uses-new-enum-value": Level.WARN,
    "adding-field-with-default": Level.WARN,
    "adding-foreign-key-constraint": Level.WARN,
    "adding-not-nullable-field": Level.WARN,
    "adding-required-field": Level.OFF,
    "adding-serial-primary-key-field": Level.WARN,
    "ban-alter-domain-with-add-constraint": Level.WARN,
    "ban-char-field": Level.OFF,
    "ban-concurrent-index-creation-in-transaction": Level.WARN,
    "ban-create-domain-with-constraint": Level.WARN,
    "ban-drop-column": Level.OFF,
    "ban-drop-database": Level.BLOCK,
    "ban-drop-not-null": Level.OFF,
    "ban-drop-table": Level.OFF,
    "ban-truncate-cascade": Level.WARN,
    "ban-uncommitted-transaction": Level.WARN,
    "changing-column-type": Level.OFF,
    "constraint-missing-not-valid": Level.OFF,
    "disallowed-unique-constraint": Level.WARN,
    "identifier-too-long": Level.WARN,
    "prefer-bigint-over-int": Level.OFF,
    "prefer-bigint-over-smallint": Level.OFF,
    "prefer-identity": Level.OFF,
    "prefer-repack": Level.OFF,
    "prefer-robust-stmts": Level.OFF,
    "prefer-text-field": Level.OFF,
    "prefer-timestamp-tz": Level.OFF,
    "renaming-column": Level.OFF,
    "renaming-table": Level.OFF,
    "require-concurrent-index-creation": Level.WARN,
    "require-concurrent-index-deletion": Level.WARN,
    "require-concurrent-partition-detach": Level.WARN,
    "require-concurrent-reindex": Level.WARN,
    "require-enum-value-ordering": Level.OFF,
    "syntax-error": Level.WARN,
    "transaction-nesting": Level.OFF,
}
# They hold for a statement wherever it runs; the others only where it meets what is there already.
EVERYWHERE = {name for name in RULES if name.startswith(("prefer-", "identifier-"))} | {
    "ban-char-field", "ban-concurrent-index-creation-in-transaction", "ban-drop-database",
    "ban-uncommitted-transaction", "syntax-error", "transaction-nesting",
    "ban-create-domain-with-constraint", "ban-alter-domain-with-add-constraint",
}  # fmt: skip


@dataclass(frozen=True)
class Assessment:
    """What one pending migration would do here, what is found in it, and how risky that is."""

    impacts: list[StatementImpact]
    findings: list[Finding]
    risk: Risk

    def as_dict(self) -> dict[str, Any]:
        return {
            "impact": [impact.as_dict() for impact in self.impacts],
            "findings": [finding.as_dict() for finding in self.findings],
            "risk": self.risk.value,
        }


ADVICE = {
    "destroys": "A restore brings it back only with everything else of that time: keep a copy.",
    "breaks": "Deploy an application that no longer depends on it first.",
    "rewrites": "Add a new column beside it, fill it in batches, and switch over.",
    "reads": "Build an index CONCURRENTLY; add a constraint NOT VALID and validate it later; "
    "change rows in batches.",
}


def assess(
    scripts: list[MigrationScript], catalogue: Catalogue, schema: str, *, is_protected: bool
) -> dict[str, Assessment]:
    """Assess pending scripts, each after those before it. Levels are not applied yet.

    Raises AdapterError when the linter cannot be run.
    """
    assessed = {}
    for script in scripts:
        impacts, catalogue = impact_of(script, catalogue, schema)
        linted = _squawk(script.text, catalogue.version, script.is_atomic)
        found = [finding for impact in impacts for finding in _own(impact)]
        found += [at for finding in linted for at in _placed(finding, impacts)]
        too_new = _new_enum_values(script)
        found += too_new
        assessed[script.name] = Assessment(
            impacts,
            sorted(dict.fromkeys(found), key=lambda finding: (finding.line, finding.rule)),
            Risk.HIGH if script.refusal or too_new else risk_of(impacts, is_protected=is_protected),
        )
    return assessed


def _own(impact: StatementImpact) -> list[Finding]:
    line = impact.statement.line
    found = [
        Finding("destroys-data", line, f"Destroys {what}.", ADVICE["destroys"])
        for what in impact.destroys
    ]
    found += [
        Finding("breaks-application", line, f"Breaks {what}.", ADVICE["breaks"])
        for what in impact.breaks
    ]
    if impact.waits_bytes >= WORK_OF_A_MOMENT:
        found.append(
            Finding(
                "blocks-while-working",
                line,
                f"{size(impact.waits_bytes)} are worked through while other sessions wait.",
                ADVICE[impact.work],
            )
        )
    if impact.changes_many_rows:
        found.append(
            Finding(
                "changes-many-rows",
                line,
                f"Works through {size(impact.work_bytes)} in one transaction: who writes to "
                "a row that it changed waits until the end.",
                "Change the rows in batches, each committed by itself.",
            )
        )
    return found


def _new_enum_values(script: MigrationScript) -> list[Finding]:
    return [
        Finding(
            "uses-new-enum-value",
            statement.line,
            f"Names '{value}', which the same transaction adds to an enum: PostgreSQL refuses its "
            "use there (55P04).",
            "Add the value in a migration of its own, before this one.",
        )
        for statement, value in values_used_at_once(script.statements)
    ]


def _placed(finding: Finding, impacts: list[StatementImpact]) -> list[Finding]:
    """The finding at the statement that holds its line, unless it means nothing there."""
    lines = [impact.statement.line for impact in impacts]
    index = bisect_right(lines, finding.line) - 1
    if index < 0 or finding.rule not in RULES:
        return []
    impact = impacts[index]
    meets = any(lock.mode > LockMode.ROW_EXCLUSIVE for lock in impact.locks) or impact.is_opaque
    if finding.rule not in EVERYWHERE and not meets:
        return []
    return [Finding(finding.rule, impact.statement.line, finding.text, finding.advice)]


@lru_cache(maxsize=2000)
def _squawk(sql: str, server_major: int, in_transaction: bool) -> tuple[Finding, ...]:
    if len(sql) > MOST_CHARACTERS or not sql.strip():
        return ()
    command = [
        TOOL,
        "--reporter=json",
        f"--pg-version={server_major}.0",
        "--stdin-filepath=migration.sql",
        *(["--assume-in-transaction"] if in_transaction else []),
    ]
    try:
        done = subprocess.run(
            command,
            input=sql.replace("\x00", ""),
            capture_output=True,
            text=True,
            timeout=TOOL_SECONDS,
            env={},
        )
        rows = json.loads(done.stdout or "[]")
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise AdapterError(f"the linter squawk could not be run: {error}") from error
    return tuple(
        Finding(
            row["rule_name"], row["line"] + 1, _plain(row["message"]), _plain(row["help"] or "")
        )
        for row in rows
    )


def _plain(text: str) -> str:
    """squawk's words without its Markdown: what it quotes is in capitals or lower case anyway."""
    return text.replace("`", "")
