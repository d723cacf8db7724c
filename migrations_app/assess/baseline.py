"""A database with tables, and no history of migrations that says how they came to be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pglast import ast
from pglast.parser import ParseError

from migrations_app.assess.effects import functions_called
from migrations_app.engines.kinds import Engine, MigrationScript
from opsconsole.environments.readings import BaselineMissing
from opsconsole.targets.parser import parse_sql
from opsconsole.targets.relations import Catalogue

TABLES = {"r", "p"}
# After one of these, what was there may be gone, or have another name.
MAY_CLEAR = (
    ast.DropStmt, ast.DropOwnedStmt, ast.RenameStmt, ast.AlterObjectSchemaStmt, ast.DoStmt,
    ast.CallStmt,
)  # fmt: skip
# What a dump begins with. It moves nothing, but unqualified names may mean another schema.
SETTING = {"set_config", "setval", "nextval"}


def missing_baseline(
    engine: Engine, pending: list[MigrationScript], catalogue: Catalogue
) -> BaselineMissing | None:
    """Why `pending` is certain to fail in a database whose history holds no migration.

    None when nothing is pending, or when no table is in the way.
    """
    if not pending:
        return None
    found = next(_made_again(pending, catalogue, engine.schema), None)
    tables = _tables_in(catalogue, engine.schema)
    has_history = f"{engine.schema}.{engine.history_table}" in catalogue.relations
    is_refused = engine.refuses_tables and not has_history and bool(tables)
    if not is_refused and found is None:
        return None
    script, table = found or (None, tables[0])
    return BaselineMissing(
        tool=engine.tool,
        table=table,
        file=script.file if script else "",
        command=engine.baseline_command(script.name if script else "0_baseline"),
    )


def _tables_in(catalogue: Catalogue, schema: str) -> list[str]:
    return sorted(
        name
        for name, relation in catalogue.relations.items()
        if name.startswith(f"{schema}.") and relation.kind in TABLES
    )


def _made_again(
    pending: list[MigrationScript], catalogue: Catalogue, schema: str
) -> Iterator[tuple[MigrationScript, str]]:
    """Each script, and a table that it creates although it is there."""
    for script in pending:
        for statement in script.statements:
            node = _node(statement.text)
            if node is None or _may_clear(node, statement.text):
                return
            if isinstance(node, ast.SelectStmt | ast.VariableSetStmt):
                schema = ""
            name = _created(node, schema)
            if name in catalogue.relations:
                yield script, name


def _may_clear(node: Any, text: str) -> bool:
    if isinstance(node, ast.SelectStmt):
        return not functions_called(text) <= SETTING
    return isinstance(node, MAY_CLEAR)


def _created(node: Any, schema: str) -> str:
    """The table that must not be there yet; "" if the statement makes none, or takes either."""
    if not isinstance(node, ast.CreateStmt) or node.if_not_exists:
        return ""
    table: Any = node.relation
    space = table.schemaname or schema
    return f"{space}.{table.relname}" if space and table.relpersistence != "t" else ""


def _node(statement: str) -> Any:
    try:
        tree = parse_sql(statement)
    except ParseError:
        return None
    return tree[0].stmt if tree else None
