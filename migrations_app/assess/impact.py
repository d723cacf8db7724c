"""What a migration costs the application while it runs, in this environment, and how risky it is.

Pure: statements and what is in the target go in, and what a person should know comes out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pglast import ast, enums
from pglast.parser import ParseError

from migrations_app.assess.effects import Effect, LockMode, effect_of
from migrations_app.engines.kinds import MigrationScript, Statement
from migrations_app.engines.statements import is_one_transaction
from opsconsole.statuses import Status, gettext_noop
from opsconsole.targets.parser import parse_sql
from opsconsole.targets.relations import Catalogue

# Bytes read or written while somebody waits. A server reads 100 MB in about a second.
WORK_OF_SECONDS = 100_000_000
WORK_OF_A_MOMENT = 10_000_000
LARGE_TABLE = 100_000_000

DATA_CHANGES = {"Update", "Delete", "Merge"}


class Risk(Status):
    """What a migration may cost, the least first. The values are stored: they stay."""

    LOW = "low", gettext_noop("low"), "good", "circle-check"
    MEDIUM = "medium", gettext_noop("medium"), "warn", "triangle-alert"
    HIGH = "high", gettext_noop("high"), "bad", "triangle-alert"


@dataclass(frozen=True)
class TableLock:
    """A lock of one statement. `rows` is an estimate, `size_bytes` measured."""

    table: str
    mode: LockMode
    rows: int
    size_bytes: int

    def as_dict(self) -> dict[str, Any]:
        return {
            "table": self.table.removeprefix("public."),
            "mode": self.mode.label,
            "blocks": blocked_by(self.mode),
            "rows": self.rows,
            "size_bytes": self.size_bytes,
        }


@dataclass(frozen=True)
class StatementImpact:
    """What one statement does. `waits_bytes`: work done while a lock of its script blocks somebody."""

    statement: Statement
    locks: tuple[TableLock, ...]
    work: str
    work_bytes: int
    waits_bytes: int
    destroys: tuple[str, ...]
    breaks: tuple[str, ...]
    is_opaque: bool

    @property
    def changes_many_rows(self) -> bool:
        """Whether so many rows are changed at once that their other writers notice."""
        return self.statement.kind in DATA_CHANGES and self.work_bytes >= WORK_OF_A_MOMENT

    def as_dict(self) -> dict[str, Any]:
        return {
            "line": self.statement.line,
            "text": self.statement.shown,
            # Locks of plain reads wait for nothing but ACCESS EXCLUSIVE: not worth a person's time.
            "locks": [lock.as_dict() for lock in self.locks if lock.mode > LockMode.ROW_SHARE],
            "work": self.work,
            "work_bytes": self.work_bytes,
            "waits_bytes": self.waits_bytes,
            "destroys": list(self.destroys),
            "breaks": list(self.breaks),
            "is_opaque": self.is_opaque,
        }


def blocked_by(mode: LockMode) -> str:
    if mode.blocks_reads:
        return "reads and writes"
    return "writes" if mode.blocks_writes else ""


def impact_of(
    script: MigrationScript, catalogue: Catalogue, schema: str = "public"
) -> tuple[list[StatementImpact], Catalogue]:
    """What each statement of the script does, and the catalogue with its renamings applied.

    In a script that runs as one transaction a lock is held to the end: what a later statement
    reads or writes is done while the sessions behind that lock wait.
    """
    holds_locks = is_one_transaction(script.statements)
    found: list[StatementImpact] = []
    held = False
    for statement in script.statements:
        effect = effect_of(statement.text, catalogue, schema)
        blocks = any(mode.blocks_writes for mode in effect.locks.values())
        held = blocks or (held and holds_locks)
        found.append(_impact(statement, effect, catalogue, is_held=held))
        catalogue = _renamed(statement.text, catalogue, schema)
    return found, catalogue


def _impact(
    statement: Statement, effect: Effect, catalogue: Catalogue, *, is_held: bool
) -> StatementImpact:
    worked = effect.scans | effect.rewrites
    size = sum(catalogue.relations[name].size_bytes for name in worked)
    locks = tuple(
        TableLock(name, mode, catalogue.relations[name].rows, catalogue.relations[name].size_bytes)
        for name, mode in sorted(effect.locks.items(), key=lambda item: (-item[1], item[0]))
    )
    return StatementImpact(
        statement=statement,
        locks=locks,
        work="rewrites" if effect.rewrites else "reads" if effect.scans else "",
        work_bytes=size,
        waits_bytes=size if is_held else 0,
        destroys=tuple(effect.destroys),
        breaks=tuple(effect.breaks),
        is_opaque=effect.is_opaque,
    )


def _renamed(statement: str, catalogue: Catalogue, schema: str) -> Catalogue:
    """Tables and columns are known under their new names to the statements that follow."""
    try:
        nodes = [raw.stmt for raw in parse_sql(statement)]
    except ParseError:
        return catalogue
    for node in nodes:
        if not isinstance(node, ast.RenameStmt) or node.relation is None:
            continue
        space = node.relation.schemaname or schema
        old = f"{space}.{node.relation.relname}"
        found = catalogue.relations.get(old)
        if found is None:
            continue
        others = dict(catalogue.relations)
        if node.renameType == enums.ObjectType.OBJECT_COLUMN:
            columns = {
                str(node.newname) if name == node.subname else name: kind
                for name, kind in found.columns.items()
            }
            others[old] = replace(found, columns=columns)
        elif node.renameType == enums.ObjectType.OBJECT_TABLE:
            del others[old]
            new = f"{space}.{node.newname}"
            others[new] = replace(found, name=new)
        catalogue = replace(catalogue, relations=others)
    return catalogue


def risk_of(impacts: list[StatementImpact], *, is_protected: bool) -> Risk:
    """`low`, `medium` or `high`, from statements, sizes and environment together.

    High: somebody waits for seconds, or (in a protected environment) data is destroyed or the
    running application breaks. Medium: a moment's wait, a brief lock on a large table, many rows
    changed at once, the same destruction elsewhere, or code that cannot be read beforehand.
    """
    return list(Risk)[max((_level(each, is_protected) for each in impacts), default=0)]


def _level(impact: StatementImpact, is_protected: bool) -> int:
    if impact.waits_bytes >= WORK_OF_SECONDS:
        return 2
    if impact.destroys or impact.breaks:
        return 2 if is_protected else 1
    queues = any(
        lock.mode.blocks_writes and lock.size_bytes >= LARGE_TABLE for lock in impact.locks
    )
    waits = impact.waits_bytes >= WORK_OF_A_MOMENT or impact.changes_many_rows
    return int(waits or queues or impact.is_opaque)
