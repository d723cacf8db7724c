"""Split SQL into statements with PostgreSQL's own parser, and say what each of them needs."""

from __future__ import annotations

from typing import Any

import pglast
from pglast import ast, enums, visitors
from pglast.parser import ParseError, scan

from migrations_app.engines.kinds import Statement

NEVER_TRANSACTIONAL = (
    ast.CreatedbStmt,
    ast.DropdbStmt,
    ast.AlterSystemStmt,
    ast.CreateTableSpaceStmt,
    ast.DropTableSpaceStmt,
)
# What PostgreSQL's scanner skips. Python's strip() also takes a hard space, which is a word there.
SPACE = " \t\n\r\f"
BEGINS = (enums.TransactionStmtKind.TRANS_STMT_BEGIN, enums.TransactionStmtKind.TRANS_STMT_START)
ENDS = (
    enums.TransactionStmtKind.TRANS_STMT_COMMIT,
    enums.TransactionStmtKind.TRANS_STMT_ROLLBACK,
    enums.TransactionStmtKind.TRANS_STMT_PREPARE,
)


def split_statements(sql: str) -> tuple[Statement, ...]:
    """The statements of a script, in order, with the line each starts on.

    A script that PostgreSQL's parser (version 18) rejects is split by its scanner instead, so
    that the server itself can say what is wrong, at the right line.
    """
    try:
        nodes = [raw.stmt for raw in pglast.parse_sql(sql)]
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
        return not any(option.defname == "concurrently" for option in node.params or ())
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


def transaction_control(statement: Statement) -> str:
    """`begin`, `commit`, `rollback`, or "" for anything else."""
    if statement.kind != "Transaction":
        return ""
    word = statement.text.split(None, 1)[0].rstrip(";").lower()
    return {
        "begin": "begin",
        "start": "begin",
        "commit": "commit",
        "end": "commit",
        "rollback": "rollback",
        "abort": "rollback",
    }.get(word, "")


def left_open(statements: tuple[Statement, ...]) -> Statement | None:
    """The statement that begins a transaction which the script does not end, if there is one.

    What is in such a transaction is lost with the session, whatever the tool says.
    """
    opened = None
    for statement in statements:
        if statement.kind != "Transaction":
            continue
        node = pglast.parse_sql(statement.text)[0].stmt
        assert isinstance(node, ast.TransactionStmt)
        if node.kind in BEGINS:
            opened = opened or statement
        elif node.kind in ENDS:
            opened = statement if node.chain else None
    return opened


def without_wrapper(statements: tuple[Statement, ...]) -> tuple[Statement, ...] | None:
    """The statements to run in one transaction of ours, or None when the script is not atomic.

    A BEGIN at the start with its COMMIT at the end is the same transaction, and is dropped.
    """
    inner = statements
    if (
        len(inner) >= 2
        and transaction_control(inner[0]) == "begin"
        and transaction_control(inner[-1]) == "commit"
    ):
        inner = inner[1:-1]
    if all(s.is_transactional and s.kind != "Transaction" for s in inner):
        return inner
    return None


def changed_tables(sql: str) -> set[str]:
    """Names of tables that the script's statements mention, unqualified."""
    try:
        tree = pglast.parse_sql(sql)
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
