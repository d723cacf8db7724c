"""How far a script came, as the catalogue shows: which statements' objects are there.

What changes rows leaves no trace in the catalogue, and an object may have been there before or
been dropped by a later statement: so this is evidence for a person, with its gaps named.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import psycopg
from pglast import ast, enums
from pglast.parser import ParseError

from migrations_app.engines.kinds import Statement
from opsconsole.targets.parser import parse_sql

AT = enums.AlterTableType
OBJECT = enums.ObjectType
MOST_STATEMENTS = 500
# A quoted name that reads the same without its quotes.
PLAIN = re.compile(r'"([a-z_][a-z0-9_$]*)"')

RELATION = "SELECT to_regclass(%(name)s) IS NOT NULL"
COLUMN = (
    "SELECT {} FROM pg_attribute WHERE attrelid = to_regclass(%(name)s) AND attname = %(part)s"
    " AND NOT attisdropped"
)
CONSTRAINT = (
    "SELECT {} FROM pg_constraint WHERE conrelid = to_regclass(%(name)s) AND conname = %(part)s"
)
# Each answers true, false, or with no row, which is false.
QUESTIONS = {
    "relation": RELATION,
    "index": "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%(name)s)",
    "type": "SELECT to_regtype(%(name)s) IS NOT NULL",
    "schema": "SELECT to_regnamespace(%(name)s) IS NOT NULL",
    "extension": "SELECT true FROM pg_extension WHERE extname = %(part)s",
    "column": COLUMN.format("true"),
    "not null": COLUMN.format("attnotnull"),
    "constraint": CONSTRAINT.format("true"),
    "valid constraint": CONSTRAINT.format("convalidated"),
    "trigger": "SELECT true FROM pg_trigger WHERE tgrelid = to_regclass(%(name)s)"
    " AND tgname = %(part)s",
    "value": "SELECT true FROM pg_enum WHERE enumtypid = to_regtype(%(name)s)"
    " AND enumlabel = %(part)s",
}
DROPPED = {
    OBJECT.OBJECT_TABLE: "relation", OBJECT.OBJECT_VIEW: "relation",
    OBJECT.OBJECT_MATVIEW: "relation", OBJECT.OBJECT_SEQUENCE: "relation",
    OBJECT.OBJECT_INDEX: "relation", OBJECT.OBJECT_TYPE: "type", OBJECT.OBJECT_DOMAIN: "type",
    OBJECT.OBJECT_SCHEMA: "schema", OBJECT.OBJECT_EXTENSION: "extension",
}  # fmt: skip


@dataclass(frozen=True)
class Trace:
    """One statement. `landed` is None when the catalogue cannot say; `shown` says why."""

    line: int
    text: str
    landed: bool | None
    shown: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Evidence:
    """The traces in order. `landed`: how many of the first statements landed, None if unknown."""

    traces: list[Trace]

    def as_dict(self) -> dict[str, Any]:
        return {"traces": [trace.as_dict() for trace in self.traces], "landed": self.landed}

    def fits(self, landed: int) -> bool:
        """Whether the catalogue does not contradict that just the first `landed` ones landed."""
        seen = [trace.landed for trace in self.traces]
        return False not in seen[:landed] and True not in seen[landed:]

    @property
    def landed(self) -> int | None:
        seen = [trace.landed for trace in self.traces]
        last_there = max((i for i, landed in enumerate(seen) if landed), default=-1)
        first_missing = next((i for i, landed in enumerate(seen) if landed is False), len(seen))
        return first_missing if last_there + 1 == first_missing else None


@dataclass(frozen=True)
class _Question:
    """Whether something is in the catalogue, or (`is_gone`) no longer is."""

    kind: str
    name: str
    part: str = ""
    is_gone: bool = False

    @property
    def subject(self) -> str:
        name = PLAIN.sub(r"\1", self.name)
        return f"{self.kind} {name}.{self.part}" if self.part else f"{self.kind} {name}"


def read_evidence(
    connection: psycopg.Connection, statements: tuple[Statement, ...], schema: str = "public"
) -> Evidence:
    """Look in the catalogue for what each statement makes or drops.

    `schema` is where unqualified names are looked up. One query a statement, of the first 500.
    """
    return Evidence(
        [
            _trace(connection, statement, schema)
            if number < MOST_STATEMENTS
            else Trace(statement.line, statement.shown, None, "too many statements to look at")
            for number, statement in enumerate(statements)
        ]
    )


def _trace(connection: psycopg.Connection, statement: Statement, schema: str) -> Trace:
    questions = list(_questions(statement, schema))
    if not questions:
        shown = "leaves no trace in the catalogue"
        return Trace(statement.line, statement.shown, None, shown)
    answers = [_ask(connection, question) for question in questions]
    shown = ", ".join(
        f"{q.subject} is {'there' if found != q.is_gone else 'not there'}"
        for q, found in zip(questions, answers, strict=True)
    )
    # One statement lands whole or not at all: answers that differ come from something else.
    landed = answers[0] if len(set(answers)) == 1 else None
    return Trace(statement.line, statement.shown, landed, shown)


def _ask(connection: psycopg.Connection, question: _Question) -> bool:
    row = connection.execute(
        QUESTIONS[question.kind], {"name": question.name, "part": question.part}
    ).fetchone()
    return bool(row and row[0]) != question.is_gone


def _questions(statement: Statement, schema: str) -> Iterator[_Question]:
    try:
        nodes = [raw.stmt for raw in parse_sql(statement.text)]
    except ParseError:
        return
    for node in nodes:
        yield from _of_node(node, schema)


def _of_node(node: Any, schema: str) -> Iterator[_Question]:
    found: Any = node
    match node:
        case ast.CreateStmt(relation=made) | ast.CreateSeqStmt(sequence=made):
            yield _Question("relation", _relation(made, schema))
        case ast.CreateTableAsStmt():
            yield _Question("relation", _relation(found.into.rel, schema))
        case ast.ViewStmt(replace=False):
            yield _Question("relation", _relation(found.view, schema))
        case ast.IndexStmt() if found.idxname:
            space = found.relation.schemaname or schema
            yield _Question("index", _quoted(space, found.idxname))
        case ast.CreateEnumStmt() | ast.CreateRangeStmt():
            yield _Question("type", _dotted(found.typeName, schema))
        case ast.CompositeTypeStmt():
            yield _Question("type", _relation(found.typevar, schema))
        case ast.CreateDomainStmt():
            yield _Question("type", _dotted(found.domainname, schema))
        case ast.CreateSchemaStmt() if found.schemaname:
            yield _Question("schema", _quoted(found.schemaname))
        case ast.CreateExtensionStmt():
            yield _Question("extension", _quoted(found.extname), found.extname)
        case ast.CreateTrigStmt(replace=False):
            yield _Question("trigger", _relation(found.relation, schema), found.trigname)
        case ast.AlterEnumStmt(oldVal=None):
            yield _Question("value", _dotted(found.typeName, schema), found.newVal)
        case ast.AlterTableStmt(objtype=OBJECT.OBJECT_TABLE):
            for command in found.cmds:
                yield from _of_command(command, _relation(found.relation, schema), schema)
        case ast.RenameStmt():
            yield from _of_rename(node, schema)
        case ast.DropStmt():
            yield from _of_drop(node, schema)


def _of_command(command: Any, table: str, schema: str) -> Iterator[_Question]:
    match command.subtype:
        case AT.AT_AddColumn:
            yield _Question("column", table, command.def_.colname)
        case AT.AT_DropColumn:
            yield _Question("column", table, command.name, is_gone=True)
        case AT.AT_AddConstraint if command.def_.conname:
            yield _Question("constraint", table, command.def_.conname)
        case AT.AT_DropConstraint:
            yield _Question("constraint", table, command.name, is_gone=True)
        case AT.AT_ValidateConstraint:
            yield _Question("valid constraint", table, command.name)
        case AT.AT_SetNotNull:
            yield _Question("not null", table, command.name)
        case AT.AT_DropNotNull:
            yield _Question("not null", table, command.name, is_gone=True)


def _of_rename(node: Any, schema: str) -> Iterator[_Question]:
    if node.renameType in {OBJECT.OBJECT_TABLE, OBJECT.OBJECT_INDEX, OBJECT.OBJECT_VIEW}:
        space = node.relation.schemaname or schema
        yield _Question("relation", _quoted(space, node.newname))
    elif node.renameType == OBJECT.OBJECT_COLUMN:
        yield _Question("column", _relation(node.relation, schema), node.newname)
    elif node.renameType == OBJECT.OBJECT_TABCONSTRAINT:
        yield _Question("constraint", _relation(node.relation, schema), node.newname)


def _of_drop(node: Any, schema: str) -> Iterator[_Question]:
    kind = DROPPED.get(node.removeType)
    for item in node.objects if kind else ():
        names: Any = getattr(item, "names", item)
        if isinstance(names, ast.String):
            name = str(names.sval)
            yield _Question(str(kind), _quoted(name), name, is_gone=True)
        else:
            yield _Question(str(kind), _dotted(names, schema), is_gone=True)


def _relation(node: Any, schema: str) -> str:
    return _quoted(node.schemaname or schema, node.relname)


def _dotted(names: Any, schema: str) -> str:
    parts = [name.sval for name in names]
    return _quoted(*parts) if len(parts) > 1 else _quoted(schema, *parts)


def _quoted(*parts: str) -> str:
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)
