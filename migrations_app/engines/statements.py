"""Split SQL into statements with PostgreSQL's own parser, and say what each of them needs."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import pglast
from pglast import ast, enums, visitors
from pglast.parser import ParseError, scan

from migrations_app.engines.kinds import Statement
from opsconsole.targets.parser import parse_sql

NEVER_TRANSACTIONAL = (
    ast.CreatedbStmt,
    ast.DropdbStmt,
    ast.AlterSystemStmt,
    ast.CreateTableSpaceStmt,
    ast.DropTableSpaceStmt,
)
# What REINDEX takes inside a transaction block.
REINDEXED_WITHIN = {
    enums.ReindexObjectType.REINDEX_OBJECT_INDEX,
    enums.ReindexObjectType.REINDEX_OBJECT_TABLE,
}
# The values with which the server reads a script as it was split and encoded.
READ_AS = {
    "standard_conforming_strings": {"on", "true", "yes"},
    "client_encoding": {"utf8", "utf-8", "unicode"},
}
SETS_BY_FUNCTION = re.compile(
    rf"\bset_config\s*\(\s*'({'|'.join(READ_AS)})'\s*,\s*'([^']*)'", re.IGNORECASE
)
BYTE_ORDER_MARK = "\ufeff"
COPY_FROM_CLIENT = re.compile(r"copy\b[^;]*?\bfrom\s+stdin\b", re.IGNORECASE)
COPY_TO_CLIENT = re.compile(r"copy\b[^;]*?\bto\s+stdout\b", re.IGNORECASE)
# What PostgreSQL's scanner skips. Python's strip() also takes a hard space, which is a word there.
SPACE = " \t\n\r\f"
MAY_END_TRANSACTIONS = re.compile(r"\b(commit|rollback|call)\b", re.IGNORECASE)


class Control(StrEnum):
    """What a statement does to the transaction that it is in."""

    BEGIN = "begin"
    COMMIT = "commit"
    ROLLBACK = "rollback"
    SAVEPOINT = "savepoint"
    TWO_PHASE = "two-phase"


CONTROLS = {
    enums.TransactionStmtKind.TRANS_STMT_BEGIN: Control.BEGIN,
    enums.TransactionStmtKind.TRANS_STMT_START: Control.BEGIN,
    enums.TransactionStmtKind.TRANS_STMT_COMMIT: Control.COMMIT,
    enums.TransactionStmtKind.TRANS_STMT_ROLLBACK: Control.ROLLBACK,
    enums.TransactionStmtKind.TRANS_STMT_SAVEPOINT: Control.SAVEPOINT,
    enums.TransactionStmtKind.TRANS_STMT_RELEASE: Control.SAVEPOINT,
    enums.TransactionStmtKind.TRANS_STMT_ROLLBACK_TO: Control.SAVEPOINT,
    enums.TransactionStmtKind.TRANS_STMT_PREPARE: Control.TWO_PHASE,
    enums.TransactionStmtKind.TRANS_STMT_COMMIT_PREPARED: Control.TWO_PHASE,
    enums.TransactionStmtKind.TRANS_STMT_ROLLBACK_PREPARED: Control.TWO_PHASE,
}
TWO_PHASE_ENDS = (
    enums.TransactionStmtKind.TRANS_STMT_COMMIT_PREPARED,
    enums.TransactionStmtKind.TRANS_STMT_ROLLBACK_PREPARED,
)
# Alone they do nothing, and PostgreSQL refuses them.
NEEDS_TRANSACTION = ("Lock", "DeclareCursor")
ENDS = (Control.COMMIT, Control.ROLLBACK)
READ_ONLY = "transaction_read_only"


def split_statements(sql: str) -> tuple[Statement, ...]:
    """The statements of a script, in order, with the line each starts on.

    A script that PostgreSQL's parser (version 18) rejects is split by its scanner instead, so
    that the server itself can say what is wrong, at the right line.
    """
    try:
        nodes = [raw.stmt for raw in parse_sql(sql)]
        slices = [_with_its_end(sql, part) for part in pglast.split(sql, only_slices=True)]
    except ParseError:
        nodes = []
        slices = _scan(sql)
    if len(nodes) != len(slices):
        nodes = [None] * len(slices)
    return tuple(_statement(sql, part, node) for part, node in zip(slices, nodes, strict=True))


def _with_its_end(sql: str, part: slice) -> slice:
    """The library strips a statement as Python does, and with it a hard space that ends it."""
    end = part.stop
    while end < len(sql) and sql[end].isspace():
        end += 1
    return slice(part.start, end)


def _scan(sql: str) -> list[slice]:
    """Split at semicolons outside parentheses. (The library's own scanner split drops a
    statement that holds no keyword, which a script with a misspelt one is likely to have.)"""
    try:
        tokens = scan(sql)
    except ParseError:
        return [slice(0, len(sql))] if sql.strip(SPACE) else []
    parts: list[slice] = []
    start: int | None = None
    end = depth = 0
    for token in tokens:
        if token.name in {"SQL_COMMENT", "C_COMMENT"}:
            continue
        depth += {"ASCII_40": 1, "ASCII_41": -1}.get(token.name, 0)
        if token.name == "ASCII_59" and depth <= 0:
            if start is not None:
                parts.append(slice(start, end))
            start = None
            continue
        start = token.start if start is None else start
        end = token.end + 1
    if start is not None:
        parts.append(slice(start, end))
    return parts


def _statement(sql: str, part: slice, node: Any) -> Statement:
    text = sql[part]
    lead = len(text) - len(text.lstrip(SPACE))
    line = sql.count("\n", 0, part.start + lead) + 1
    return Statement(
        line=line,
        text=text.strip(SPACE),
        kind=type(node).__name__.removesuffix("Stmt") if node is not None else "unparsed",
        is_transactional=_is_transactional(node),
        concurrent_index=_concurrent_index(node),
    )


def _is_transactional(node: Any) -> bool:
    """Whether PostgreSQL allows it inside a transaction block (its reference, each command)."""
    if isinstance(node, ast.IndexStmt):
        return not node.concurrent
    if isinstance(node, ast.DropStmt):
        return not node.concurrent
    if isinstance(node, ast.ReindexStmt):
        is_concurrent = any(option.defname == "concurrently" for option in node.params or ())
        return not is_concurrent and node.kind in REINDEXED_WITHIN
    if isinstance(node, ast.ClusterStmt):
        return node.relation is not None
    if isinstance(node, ast.DiscardStmt):
        return node.target != enums.DiscardMode.DISCARD_ALL
    if isinstance(node, ast.TransactionStmt):
        # Of a transaction that was prepared before: not from within another.
        return node.kind not in TWO_PHASE_ENDS
    if isinstance(node, ast.VacuumStmt):
        return not node.is_vacuumcmd
    if isinstance(node, ast.AlterTableStmt):
        return not any(
            command.subtype == enums.AlterTableType.AT_DetachPartition
            and getattr(command.def_, "concurrent", False)
            for command in node.cmds or ()
        )
    return not isinstance(node, NEVER_TRANSACTIONAL)


def _concurrent_index(node: Any) -> str:
    if isinstance(node, ast.IndexStmt) and node.concurrent and node.idxname and node.relation:
        schema = node.relation.schemaname
        return f"{schema}.{node.idxname}" if schema else str(node.idxname)
    return ""


def control_of(statement: Statement) -> Control | None:
    """What it does to its transaction; None for what is no control of transactions."""
    node = _control_node(statement)
    return CONTROLS[node.kind] if node and node.kind is not None else None


def _control_node(statement: Statement) -> ast.TransactionStmt | None:
    if statement.kind != "Transaction":
        return None
    node = parse_sql(statement.text)[0].stmt
    assert isinstance(node, ast.TransactionStmt)
    return node


def left_open(statements: tuple[Statement, ...]) -> Statement | None:
    """The statement that begins a transaction which the script does not end, if there is one.

    What is in such a transaction is lost with the session, whatever the tool says.
    """
    opened = None
    for statement in statements:
        node = _control_node(statement)
        control = control_of(statement)
        if control is Control.BEGIN:
            opened = opened or statement
        elif node and (
            control in ENDS or node.kind == enums.TransactionStmtKind.TRANS_STMT_PREPARE
        ):
            opened = statement if node.chain else None
    return opened


def not_followed(statements: tuple[Statement, ...], *, in_transaction: bool = False) -> str:
    """Why its control of transactions cannot be followed as the tool does; "" if it can.

    `in_transaction`: the tool itself begins one before the script, and ends it after.
    """
    if len(statements) == 1 and statements[0].kind in NEEDS_TRANSACTION and not in_transaction:
        return f"line {statements[0].line} needs a transaction: write BEGIN before it, and COMMIT"
    begun = in_transaction
    for statement in statements:
        node, control = _control_node(statement), control_of(statement)
        where = f"line {statement.line}"
        if control is Control.TWO_PHASE:
            return f"{where} prepares a transaction, which outlives the file: write COMMIT"
        if control in ENDS and in_transaction:
            return f"{where} ends the transaction that the tool began for the file: leave it out"
        if node and control in ENDS and node.chain:
            return f"{where}: the console does not follow AND CHAIN: write COMMIT; and BEGIN;"
        if control is Control.SAVEPOINT and not begun:
            return f"{where} needs a transaction, and the file begins none before it: write BEGIN"
        begun = in_transaction or (control not in ENDS and (begun or control is Control.BEGIN))
    return ""


def not_sendable(sql: str, statements: tuple[Statement, ...]) -> str:
    """Why the server cannot take the script from its tool at all; "" if nothing is certain."""
    if sql.lstrip("\n").startswith(BYTE_ORDER_MARK):
        return "begins with a byte order mark, a word to PostgreSQL: save it as UTF-8 without one"
    for statement in statements:
        if _copies_from_client(statement):
            return (
                f"line {statement.line} reads rows from its client, and the tool sends none: write "
                "INSERT instead of COPY FROM stdin"
            )
        changed = _changes_reading(statement)
        if changed:
            return (
                f"line {statement.line} sets {changed}, which changes how the rest is read when it "
                "is sent by statement: leave it out"
            )
        if _copies_to_client(statement):
            return f"line {statement.line} sends rows to its client, which takes none: remove it"
    if any(statement.kind == "unparsed" for statement in statements):
        found = _psql_command(sql)
        if found:
            return (
                f"line {found[0]} is a command of psql ({found[1]}), which no tool sends: remove it"
            )
    return ""


def _copies_from_client(statement: Statement) -> bool:
    if statement.kind == "unparsed":
        return bool(COPY_FROM_CLIENT.match(statement.text))
    if statement.kind != "Copy":
        return False
    node = _node(statement)
    return bool(node.is_from and not node.filename and not node.is_program)


def _changes_reading(statement: Statement) -> str:
    """The setting by which the server would read the next statements otherwise than they were
    split and encoded; "" if it sets none."""
    if called := SETS_BY_FUNCTION.search(statement.text):
        return "" if called[2].lower() in READ_AS[called[1].lower()] else called[1].lower()
    node = _node(statement) if statement.kind == "VariableSet" else None
    if node is None or node.name not in READ_AS or not node.args:
        return ""
    value = str(getattr(node.args[0].val, "sval", "")).lower()
    return "" if value in READ_AS[node.name] else str(node.name)


def takes_escapes(statement: Statement) -> bool:
    """Whether it has a plain string with a backslash.

    With standard_conforming_strings off the server takes it for an escape, and may end the string
    elsewhere than where the script was split (PostgreSQL's documentation, 4.1.2.2).
    """
    text = statement.text
    try:
        strings = (text[t.start : t.end + 1] for t in scan(text) if text[t.start] == "'")
        return any("\\" in string for string in strings)
    except ParseError:
        return "\\" in text


def _copies_to_client(statement: Statement) -> bool:
    if statement.kind == "unparsed":
        return bool(COPY_TO_CLIENT.match(statement.text))
    if statement.kind != "Copy":
        return False
    node = _node(statement)
    return not (node.is_from or node.filename or node.is_program)


def _psql_command(sql: str) -> tuple[int, str] | None:
    """The line and the word of the first that begins a line."""
    try:
        tokens = scan(sql)
    except ParseError:
        return None
    for token in tokens:
        line_begins = sql.rfind("\n", 0, token.start) + 1
        if token.name == "ASCII_92" and not sql[line_begins : token.start].strip(SPACE):
            return sql.count("\n", 0, token.start) + 1, sql[token.start :].split(None, 1)[0]
    return None


def values_used_at_once(statements: tuple[Statement, ...]) -> list[tuple[Statement, str]]:
    """Statements that name a value which an enum got before in the same transaction, with it.

    PostgreSQL refuses its use there (55P04), but not where the type is as new.
    """
    found = []
    for part in parts_of(statements):
        added: set[str] = set()
        made: set[tuple[str, ...]] = set()
        for statement in part.statements:
            node = _node(statement) if statement.kind in {"AlterEnum", "CreateEnum"} else None
            if isinstance(node, ast.CreateEnumStmt):
                made.add(_names(node.typeName))
            elif isinstance(node, ast.AlterEnumStmt):
                if node.newVal and not node.oldVal and _names(node.typeName) not in made:
                    added.add(node.newVal)
            else:
                named = (v for v in sorted(added) if _quoted(v) in statement.text)
                found += [(statement, value) for value in named]
    return found


def _node(statement: Statement) -> Any:
    return parse_sql(statement.text)[0].stmt


def _names(names: Any) -> tuple[str, ...]:
    return tuple(name.sval for name in names or ())


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def may_end_transactions(statement: Statement) -> bool:
    """Whether its code may commit or roll back, for which it has to be outside a transaction."""
    if statement.kind == "Call":
        return True
    return statement.kind == "Do" and bool(MAY_END_TRANSACTIONS.search(statement.text))


@dataclass(frozen=True)
class Part:
    """Statements of a script that come and go together; `is_outside`: one without a transaction."""

    statements: tuple[Statement, ...]
    is_outside: bool = False

    @property
    def is_rolled_back(self) -> bool:
        return control_of(self.statements[-1]) is Control.ROLLBACK


def parts_of(statements: tuple[Statement, ...]) -> list[Part]:
    """The parts that PostgreSQL makes of a script, in order.

    One that is sent whole is in transactions throughout: what stands before a BEGIN is in the
    same one, each ends with its COMMIT or ROLLBACK, and the last with the script (PostgreSQL's
    documentation, "Multiple Statements in a Simple Query"). A script with a statement that
    cannot be in a transaction is not sent whole: there each is a part, but for what is from a
    BEGIN to its end.
    """
    is_whole = len(statements) > 1 and all(s.is_transactional for s in statements)
    found: list[Part] = []
    part: list[Statement] = []
    for statement in statements:
        part.append(statement)
        is_block = is_whole or control_of(part[0]) is Control.BEGIN
        if not is_block or control_of(statement) in ENDS:
            found.append(Part(tuple(part), is_outside=not is_block and _is_outside(statement)))
            part = []
    return [*found, Part(tuple(part))] if part else found


def _is_outside(statement: Statement) -> bool:
    return not statement.is_transactional or may_end_transactions(statement)


def within(statements: tuple[Statement, ...]) -> tuple[Statement, ...]:
    """What to execute of a transaction where we begin and end it: not its BEGIN and COMMIT, but
    their modes."""
    inner = (_modes(s) if control_of(s) is Control.BEGIN else s for s in statements)
    return tuple(s for s in inner if s is not None and control_of(s) not in ENDS)


def _modes(begin: Statement) -> Statement | None:
    """`BEGIN ISOLATION LEVEL SERIALIZABLE` in a transaction that is begun already."""
    tokens = [t for t in scan(begin.text) if t.name not in {"SQL_COMMENT", "C_COMMENT"}]
    skipped = 2 if len(tokens) > 1 and tokens[1].name in {"WORK", "TRANSACTION"} else 1
    if len(tokens) == skipped:
        return None
    text = f"SET TRANSACTION {begin.text[tokens[skipped].start :]}"
    return replace(begin, text=text, kind="VariableSet")


def _is_read_only(statement: Statement) -> bool:
    """Whether it could make of its transaction one that writes nothing, not even our row."""
    if statement.kind not in {"VariableSet", "Transaction"}:
        return False
    node: Any = parse_sql(statement.text)[0].stmt
    options = node.options if isinstance(node, ast.TransactionStmt) else node.args
    names = {getattr(option, "defname", "") for option in options or ()}
    return READ_ONLY in names or getattr(node, "name", "") == READ_ONLY


def is_one_transaction(statements: tuple[Statement, ...]) -> bool:
    """Whether all of a script is one transaction, in which the history can be written too."""
    parts = parts_of(statements)
    if len(parts) > 1 or any(part.is_outside or part.is_rolled_back for part in parts):
        return False
    return not any(map(_is_read_only, statements))


def changed_tables(sql: str) -> set[str]:
    """Names of tables that the script's statements mention, unqualified."""
    try:
        tree = parse_sql(sql)
    except ParseError:
        return set()
    found: set[str] = set()

    class Collect(visitors.Visitor):
        def visit_RangeVar(self, _ancestors: Any, node: Any) -> None:
            found.add(node.relname)

        def visit_RenameStmt(self, _ancestors: Any, node: Any) -> None:
            found.add(node.newname)

        def visit_DropStmt(self, _ancestors: Any, node: Any) -> None:
            for names in node.objects or ():
                if isinstance(names, tuple):
                    found.update(str(n.sval) for n in names if hasattr(n, "sval"))

    Collect()(tree)
    return found
