"""What one SQL statement does to what is there: locks, scans, rewrites, and what it destroys.

Source: PostgreSQL's documentation of explicit locking and of each command; the tests compare it
with what pg_locks and the server's own messages show.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from functools import singledispatchmethod
from typing import Any

from pglast import ast, enums, visitors
from pglast.parser import ParseError

from opsconsole.formats import counted
from opsconsole.targets.parser import parse_sql
from opsconsole.targets.relations import Catalogue, Relation

AT = enums.AlterTableType
CON = enums.ConstrType
OBJECT = enums.ObjectType


class LockMode(IntEnum):
    """PostgreSQL's table locks, weakest first; the numbers are the server's own."""

    ACCESS_SHARE = 1
    ROW_SHARE = 2
    ROW_EXCLUSIVE = 3
    SHARE_UPDATE_EXCLUSIVE = 4
    SHARE = 5
    SHARE_ROW_EXCLUSIVE = 6
    EXCLUSIVE = 7
    ACCESS_EXCLUSIVE = 8

    @property
    def label(self) -> str:
        """As SQL writes it."""
        return self.name.replace("_", " ")

    @property
    def in_pg_locks(self) -> str:
        return self.name.title().replace("_", "") + "Lock"

    @property
    def blocks_reads(self) -> bool:
        return self is LockMode.ACCESS_EXCLUSIVE

    @property
    def blocks_writes(self) -> bool:
        return self >= LockMode.SHARE


@dataclass
class Effect:
    """What a statement does to relations that exist before it; `schema.name` each.

    `is_opaque`: it runs code that cannot be read from the statement (DO, CALL).
    """

    locks: dict[str, LockMode] = field(default_factory=dict)
    scans: set[str] = field(default_factory=set)
    rewrites: set[str] = field(default_factory=set)
    destroys: list[str] = field(default_factory=list)
    breaks: list[str] = field(default_factory=list)
    is_opaque: bool = False

    def lock(self, name: str, mode: LockMode) -> None:
        self.locks[name] = max(mode, self.locks.get(name, mode))


# Subcommands that need less than ACCESS EXCLUSIVE.
WEAKER = {
    AT.AT_SetStatistics: LockMode.SHARE_UPDATE_EXCLUSIVE,
    AT.AT_SetOptions: LockMode.SHARE_UPDATE_EXCLUSIVE,
    AT.AT_ResetOptions: LockMode.SHARE_UPDATE_EXCLUSIVE,
    AT.AT_ClusterOn: LockMode.SHARE_UPDATE_EXCLUSIVE,
    AT.AT_DropCluster: LockMode.SHARE_UPDATE_EXCLUSIVE,
    AT.AT_ValidateConstraint: LockMode.SHARE_UPDATE_EXCLUSIVE,
    AT.AT_AttachPartition: LockMode.SHARE_UPDATE_EXCLUSIVE,
    AT.AT_DetachPartitionFinalize: LockMode.SHARE_UPDATE_EXCLUSIVE,
    **dict.fromkeys(
        (AT.AT_EnableTrig, AT.AT_EnableAlwaysTrig, AT.AT_EnableReplicaTrig, AT.AT_DisableTrig,
         AT.AT_EnableTrigAll, AT.AT_DisableTrigAll, AT.AT_EnableTrigUser, AT.AT_DisableTrigUser),
        LockMode.SHARE_ROW_EXCLUSIVE,
    ),
}  # fmt: skip
# Storage parameters that need ACCESS EXCLUSIVE; the others SHARE UPDATE EXCLUSIVE.
STRONG_OPTIONS = {
    "user_catalog_table", "security_barrier", "check_option", "security_invoker", "fastupdate",
    "gin_pending_list_limit", "buffering", "autosummarize", "pages_per_range",
}  # fmt: skip
REWRITING = {
    AT.AT_SetLogged,
    AT.AT_SetUnLogged,
    AT.AT_SetAccessMethod,
    AT.AT_SetTableSpace,
    AT.AT_SetExpression,
}
RELATION_OBJECTS = {
    OBJECT.OBJECT_TABLE,
    OBJECT.OBJECT_VIEW,
    OBJECT.OBJECT_MATVIEW,
    OBJECT.OBJECT_SEQUENCE,
    OBJECT.OBJECT_FOREIGN_TABLE,
}
ON_A_TABLE = {
    OBJECT.OBJECT_TRIGGER,
    OBJECT.OBJECT_RULE,
    OBJECT.OBJECT_POLICY,
    OBJECT.OBJECT_TABCONSTRAINT,
}
SERIALS = {"serial", "bigserial", "smallserial", "serial2", "serial4", "serial8"}
# Types that read each other's bytes as they are; the right-hand one without a limit.
SAME_BYTES = {
    ("character varying", "text"),
    ("text", "character varying"),
    ("cidr", "inet"),
    ("bit varying", "bit varying"),
    ("xml", "text"),
}
WORDS = {
    OBJECT.OBJECT_TABLE: "table", OBJECT.OBJECT_VIEW: "view", OBJECT.OBJECT_SEQUENCE: "sequence",
    OBJECT.OBJECT_MATVIEW: "materialized view", OBJECT.OBJECT_COLUMN: "column",
    OBJECT.OBJECT_FUNCTION: "function", OBJECT.OBJECT_PROCEDURE: "procedure",
    OBJECT.OBJECT_TYPE: "type", OBJECT.OBJECT_DOMAIN: "domain", OBJECT.OBJECT_SCHEMA: "schema",
    OBJECT.OBJECT_FOREIGN_TABLE: "foreign table", OBJECT.OBJECT_ATTRIBUTE: "attribute",
    OBJECT.OBJECT_EXTENSION: "extension",
}  # fmt: skip


def functions_called(sql: str) -> set[str]:
    """Names of the functions a script calls, unqualified; also what `serial` calls."""
    try:
        tree = parse_sql(sql)
    except ParseError:
        return set()
    return {name for raw in tree for name in _functions(raw)} | {"nextval"}


def effect_of(statement: str, catalogue: Catalogue, schema: str = "public") -> Effect:
    """What the statement does to the relations of `catalogue`; nothing for what it makes anew.

    `schema` is where unqualified names are looked up. A statement that the parser does not
    know is opaque.
    """
    try:
        nodes = [raw.stmt for raw in parse_sql(statement)]
    except ParseError:
        return Effect(is_opaque=True)
    reading = _Reading(catalogue, schema)
    for node in nodes:
        reading.read(node)
    return reading.effect


class _Reading:
    def __init__(self, catalogue: Catalogue, schema: str) -> None:
        self.catalogue = catalogue
        self.schema = schema
        self.effect = Effect()

    # -- names

    def _name(self, node: Any) -> str:
        return f"{node.schemaname or self.schema}.{node.relname}"

    def _dotted(self, parts: Iterable[Any]) -> str:
        names = [part.sval for part in parts]
        return ".".join(names[-2:] if len(names) > 1 else [self.schema, *names])

    def _existing(self, name: str) -> Relation | None:
        return self.catalogue.relations.get(name)

    def _lock(self, name: str, mode: LockMode) -> bool:
        """Lock one relation, if it is there already; returns whether it is."""
        if self._existing(name) is None:
            return False
        self.effect.lock(name, mode)
        return True

    def _lock_family(self, name: str, mode: LockMode) -> list[Relation]:
        family = self.catalogue.family(name)
        for relation in family:
            self.effect.lock(relation.name, mode)
        return family

    def _stored(self, name: str) -> set[str]:
        """The table and its partitions, as far as they hold rows."""
        return {r.name for r in self.catalogue.family(name) if r.kind in {"r", "m"}}

    # -- statements

    @singledispatchmethod
    def read(self, node: Any) -> None:
        """Anything else touches no relation of the user's (functions, types, roles, settings)."""

    @read.register(ast.AlterTableStmt)
    def _(self, node: Any) -> None:
        name = self._name(node.relation)
        if self._existing(name) is None:
            return
        for command in node.cmds:
            self._lock(name, self._subcommand_lock(command))
            self._subcommand(name, command, inherits=node.relation.inh)

    def _subcommand_lock(self, command: Any) -> LockMode:
        kind = command.subtype
        if kind == AT.AT_AddConstraint and command.def_.contype == CON.CONSTR_FOREIGN:
            return LockMode.SHARE_ROW_EXCLUSIVE
        if kind in {AT.AT_SetRelOptions, AT.AT_ResetRelOptions}:
            strong = any(option.defname in STRONG_OPTIONS for option in command.def_ or ())
            return LockMode.ACCESS_EXCLUSIVE if strong else LockMode.SHARE_UPDATE_EXCLUSIVE
        if kind == AT.AT_DetachPartition and command.def_.concurrent:
            return LockMode.SHARE_UPDATE_EXCLUSIVE
        return WEAKER.get(kind, LockMode.ACCESS_EXCLUSIVE)

    def _subcommand(self, name: str, command: Any, *, inherits: bool) -> None:
        kind, definition = command.subtype, command.def_
        if kind == AT.AT_AddColumn:
            self._family_of(name, inherits)
            self._add_column(name, definition)
        elif kind == AT.AT_DropColumn:
            self._family_of(name, inherits)
            self._drop_column(name, command)
        elif kind == AT.AT_AlterColumnType:
            self._family_of(name, inherits)
            self._alter_type(name, command)
        elif kind == AT.AT_SetNotNull:
            self._family_of(name, inherits)
            self._set_not_null(name, command.name)
        elif kind == AT.AT_AddConstraint:
            self._add_constraint(name, definition, inherits=inherits)
        elif kind == AT.AT_ValidateConstraint:
            self._validate(name, command.name)
        elif kind == AT.AT_DropConstraint:
            self._drop_constraint(name, command.name)
        elif kind == AT.AT_AttachPartition:
            self._attach(self._name(definition.name))
        elif kind == AT.AT_DetachPartition:
            self._detach(name, self._name(definition.name), definition.concurrent)
        elif kind == AT.AT_AddInherit:
            self._lock(self._name(definition), LockMode.SHARE_UPDATE_EXCLUSIVE)
        elif kind in REWRITING:
            self.effect.rewrites |= self._stored(name)
        elif kind == AT.AT_ColumnDefault and definition is None:
            self._break(f"inserts that leave {_short(name)}.{command.name} out get no default")

    def _family_of(self, name: str, inherits: bool) -> None:
        if inherits:
            self._lock_family(name, LockMode.ACCESS_EXCLUSIVE)

    def _add_column(self, name: str, column: Any) -> None:
        given = {c.contype: c for c in column.constraints or ()}
        default = given.get(CON.CONSTR_DEFAULT)
        generated = given.get(CON.CONSTR_GENERATED)
        if (
            _type_name(column.typeName) in SERIALS
            or CON.CONSTR_IDENTITY in given
            or (generated and generated.generated_kind == "s")
            or (default and self._is_volatile(default.raw_expr))
        ):
            self.effect.rewrites |= self._stored(name)
        elif {CON.CONSTR_CHECK, CON.CONSTR_UNIQUE, CON.CONSTR_PRIMARY} & given.keys():
            self.effect.scans |= self._stored(name)
        if CON.CONSTR_FOREIGN in given:
            foreign = given[CON.CONSTR_FOREIGN]
            self._lock(self._name(foreign.pktable), LockMode.SHARE_ROW_EXCLUSIVE)
            if default:
                self.effect.scans |= self._stored(name)
        required = {CON.CONSTR_NOTNULL, CON.CONSTR_PRIMARY} & given.keys()
        filled = default or generated or CON.CONSTR_IDENTITY in given
        if required and not filled and _type_name(column.typeName) not in SERIALS:
            self._break(
                f"{_short(name)}.{column.colname} is required and has no default: it fails on a "
                "table with rows, and so do the running application's inserts"
            )

    def _is_volatile(self, expression: Any) -> bool:
        return bool(_functions(expression) & self.catalogue.volatile)

    def _drop_column(self, name: str, command: Any) -> None:
        table = self._existing(name)
        assert table is not None
        if command.name not in table.columns:
            return
        for constraint in table.constraints.values():
            if constraint.references and f"({command.name})" in constraint.definition:
                self._lock(constraint.references, LockMode.ACCESS_EXCLUSIVE)
        if command.behavior == enums.DropBehavior.DROP_CASCADE:
            self._drop_views_on(name, command.name)
        self.effect.destroys.append(
            f"the values of {_short(name)}.{command.name}{_rows(self._rows(name))}"
        )
        self._break(f"whatever still uses {_short(name)}.{command.name}")

    def _alter_type(self, name: str, command: Any) -> None:
        table = self._existing(name)
        assert table is not None
        before = table.columns.get(command.name, ("", False))[0]
        after = _type_name(command.def_.typeName)
        if command.def_.raw_default is not None or not _keeps_bytes(before, after):
            self.effect.rewrites |= self._stored(name)
        for other, constraint in self._foreign_keys_on(name, command.name):
            self._lock(other, LockMode.ACCESS_EXCLUSIVE)
            if constraint:
                self.effect.scans |= self._stored(other)
        if before and before != after:
            self._break(f"whatever counts on {_short(name)}.{command.name} being {before}")

    def _foreign_keys_on(self, name: str, column: str) -> Iterator[tuple[str, bool]]:
        """Tables on the other side of a foreign key of the column; whether they point here."""
        table = self._existing(name)
        assert table is not None
        for constraint in table.constraints.values():
            if constraint.references and f"FOREIGN KEY ({column})" in constraint.definition:
                yield constraint.references, False
        for other, key in self.catalogue.referencing(name):
            definition = self.catalogue.relations[other].constraints[key].definition
            if re.search(rf"REFERENCES \S+\({re.escape(column)}\)", definition):
                yield other, True

    def _set_not_null(self, name: str, column: str) -> None:
        for relation in self.catalogue.family(name):
            is_required = relation.columns.get(column, ("", False))[1]
            proven = any(
                c.kind == "c" and c.is_valid and f"({column} IS NOT NULL)" in c.definition
                for c in relation.constraints.values()
            )
            if relation.kind == "r" and not is_required and not proven:
                self.effect.scans.add(relation.name)
        self._break(f"writes that leave {_short(name)}.{column} empty")

    def _add_constraint(self, name: str, constraint: Any, *, inherits: bool) -> None:
        kind = constraint.contype
        if kind == CON.CONSTR_FOREIGN:
            self._lock_family(name, LockMode.SHARE_ROW_EXCLUSIVE)
            self._lock_family(self._name(constraint.pktable), LockMode.SHARE_ROW_EXCLUSIVE)
        else:
            self._family_of(name, inherits)
        if constraint.skip_validation:
            return
        if constraint.indexname and kind == CON.CONSTR_UNIQUE:
            return
        if constraint.indexname and kind == CON.CONSTR_PRIMARY:
            self._primary_by_index(name)
            return
        self.effect.scans |= self._stored(name)

    def _primary_by_index(self, name: str) -> None:
        table = self._existing(name)
        assert table is not None
        # Which columns the index covers is not in the catalogue: any nullable one may be.
        if not all(is_required for _type, is_required in table.columns.values()):
            self.effect.scans |= self._stored(name)

    def _validate(self, name: str, key: str) -> None:
        table = self._existing(name)
        assert table is not None
        constraint = table.constraints.get(key)
        if constraint is None or constraint.is_valid:
            return
        self.effect.scans |= self._stored(name)
        if constraint.references:
            self._lock(constraint.references, LockMode.ROW_SHARE)

    def _drop_constraint(self, name: str, key: str) -> None:
        table = self._existing(name)
        assert table is not None
        self._lock_family(name, LockMode.ACCESS_EXCLUSIVE)
        constraint = table.constraints.get(key)
        if constraint and constraint.references:
            self._lock(constraint.references, LockMode.ACCESS_EXCLUSIVE)

    def _attach(self, child: str) -> None:
        if self._lock(child, LockMode.ACCESS_EXCLUSIVE):
            self.effect.scans |= self._stored(child)

    def _detach(self, parent: str, child: str, is_concurrent: bool) -> None:
        if is_concurrent:
            self._lock(child, LockMode.ACCESS_EXCLUSIVE)
            return
        self._lock_family(child, LockMode.ACCESS_EXCLUSIVE)
        self._break(f"queries of {_short(parent)} no longer see the rows of {_short(child)}")

    @read.register(ast.RenameStmt)
    def _(self, node: Any) -> None:
        if node.relation is None:
            if node.renameType in WORDS:
                self._break(f"whatever uses the old name of the {WORDS[node.renameType]}")
            return
        name = self._name(node.relation)
        if node.renameType == OBJECT.OBJECT_INDEX:
            self._lock(name, LockMode.SHARE_UPDATE_EXCLUSIVE)
            return
        if node.renameType in {OBJECT.OBJECT_COLUMN, OBJECT.OBJECT_TABCONSTRAINT}:
            known = bool(self._lock_family(name, LockMode.ACCESS_EXCLUSIVE))
        else:
            known = self._lock(name, LockMode.ACCESS_EXCLUSIVE)
        if known and node.renameType == OBJECT.OBJECT_COLUMN:
            self._break(f"whatever still uses {_short(name)}.{node.subname}")
        elif known and node.renameType in RELATION_OBJECTS:
            self._break(f"whatever still uses {_short(name)}")

    @read.register(ast.AlterObjectSchemaStmt)
    def _(self, node: Any) -> None:
        if node.relation is not None and self._lock(
            self._name(node.relation), LockMode.ACCESS_EXCLUSIVE
        ):
            self._break(f"whatever uses {_short(self._name(node.relation))} without its new schema")

    @read.register(ast.DropStmt)
    def _(self, node: Any) -> None:
        kind = node.removeType
        for parts in node.objects:
            if kind in RELATION_OBJECTS:
                self._drop_relation(self._dotted(parts), node)
            elif kind == OBJECT.OBJECT_INDEX:
                self._drop_index(self._dotted(parts), node.concurrent)
            elif kind in ON_A_TABLE:
                self._lock(self._dotted(parts[:-1]), LockMode.ACCESS_EXCLUSIVE)
            elif kind == OBJECT.OBJECT_SCHEMA:
                self._drop_schema(parts.sval)
            elif kind in WORDS:
                self._break(f"whatever still uses the {WORDS[kind]}")

    def _drop_views_on(self, name: str, column: str = "") -> None:
        for view in self.catalogue.views_on(name, column):
            self.effect.lock(view.name, LockMode.ACCESS_EXCLUSIVE)
            self._break(f"whatever still uses {_short(view.name)}")

    def _drop_relation(self, name: str, node: Any) -> None:
        family = self._lock_family(name, LockMode.ACCESS_EXCLUSIVE)
        for relation in family:
            for constraint in relation.constraints.values():
                if constraint.references:
                    self._lock(constraint.references, LockMode.ACCESS_EXCLUSIVE)
            for other, _key in self.catalogue.referencing(relation.name):
                self._lock(other, LockMode.ACCESS_EXCLUSIVE)
        for parent in self.catalogue.parents(name):
            self._lock(parent, LockMode.ACCESS_EXCLUSIVE)
        if family:
            self._break(f"whatever still uses {_short(name)}")
        if node.behavior == enums.DropBehavior.DROP_CASCADE:
            self._drop_views_on(name)
        if family and node.removeType == OBJECT.OBJECT_TABLE:
            self.effect.destroys.append(f"{_short(name)}{_rows(self._rows(name))}")

    def _drop_index(self, name: str, is_concurrent: bool) -> None:
        index = self._existing(name)
        if index is None or index.of is None:
            return
        mode = LockMode.SHARE_UPDATE_EXCLUSIVE if is_concurrent else LockMode.ACCESS_EXCLUSIVE
        self._lock_family(index.of, mode)

    def _drop_schema(self, schema: str) -> None:
        for name, relation in self.catalogue.relations.items():
            if name.split(".")[0] == schema and relation.kind not in {"i", "I"}:
                self.effect.lock(name, LockMode.ACCESS_EXCLUSIVE)
                if relation.kind == "r":
                    self.effect.destroys.append(f"{name}{_rows(relation.rows)}")
        self._break(f"whatever still uses the schema {schema}")

    @read.register(ast.IndexStmt)
    def _(self, node: Any) -> None:
        name = self._name(node.relation)
        mode = LockMode.SHARE_UPDATE_EXCLUSIVE if node.concurrent else LockMode.SHARE
        if node.relation.inh:
            self._lock_family(name, mode)
            self.effect.scans |= self._stored(name)
        elif self._lock(name, mode) and self.catalogue.relations[name].kind != "p":
            self.effect.scans.add(name)

    @read.register(ast.ReindexStmt)
    def _(self, node: Any) -> None:
        is_concurrent = any(option.defname == "concurrently" for option in node.params or ())
        mode = LockMode.SHARE_UPDATE_EXCLUSIVE if is_concurrent else LockMode.SHARE
        if node.relation is None:
            names = [r.name for r in self.catalogue.relations.values() if r.kind in {"r", "m"}]
        else:
            name = self._name(node.relation)
            found = self._existing(name)
            names = [found.of or name] if found else []
        for name in names:
            self._lock_family(name, mode)
            self.effect.scans |= self._stored(name)

    @read.register(ast.ClusterStmt)
    def _(self, node: Any) -> None:
        if node.relation is not None:
            self._rewrite(self._name(node.relation))

    @read.register(ast.VacuumStmt)
    def _(self, node: Any) -> None:
        is_full = any(
            option.defname == "full" and getattr(option.arg, "sval", "on") not in {"off", "false"}
            for option in node.options or ()
        )
        for each in node.rels or ():
            if each.relation is None:
                continue
            name = self._name(each.relation)
            if is_full:
                self._rewrite(name)
            else:
                self._lock_family(name, LockMode.SHARE_UPDATE_EXCLUSIVE)

    @read.register(ast.RefreshMatViewStmt)
    def _(self, node: Any) -> None:
        name = self._name(node.relation)
        if node.concurrent:
            self._lock(name, LockMode.EXCLUSIVE)
        else:
            self._rewrite(name)
        self._read_below(name)

    def _rewrite(self, name: str) -> None:
        self._lock_family(name, LockMode.ACCESS_EXCLUSIVE)
        self.effect.rewrites |= self._stored(name)

    @read.register(ast.TruncateStmt)
    def _(self, node: Any) -> None:
        names = [self._name(relation) for relation in node.relations]
        if node.behavior == enums.DropBehavior.DROP_CASCADE:
            for name in names:
                names += [o for o, _k in self.catalogue.referencing(name) if o not in names]
        for name in names:
            if self._lock_family(name, LockMode.ACCESS_EXCLUSIVE):
                self.effect.destroys.append(f"the rows of {_short(name)}{_rows(self._rows(name))}")

    @read.register(ast.LockStmt)
    def _(self, node: Any) -> None:
        for relation in node.relations:
            self._lock_family(self._name(relation), LockMode(node.mode))

    @read.register(ast.CreateTrigStmt)
    def _(self, node: Any) -> None:
        self._lock_family(self._name(node.relation), LockMode.SHARE_ROW_EXCLUSIVE)

    @read.register(ast.RuleStmt)
    def _(self, node: Any) -> None:
        self._lock(self._name(node.relation), LockMode.ACCESS_EXCLUSIVE)

    @read.register(ast.CreatePolicyStmt)
    @read.register(ast.AlterPolicyStmt)
    def _(self, node: Any) -> None:
        self._lock(self._name(node.table), LockMode.ACCESS_EXCLUSIVE)

    @read.register(ast.CommentStmt)
    def _(self, node: Any) -> None:
        if node.objtype in RELATION_OBJECTS | {OBJECT.OBJECT_INDEX}:
            self._lock(self._dotted(node.object), LockMode.SHARE_UPDATE_EXCLUSIVE)
        elif node.objtype == OBJECT.OBJECT_COLUMN:
            self._lock(self._dotted(node.object[:-1]), LockMode.SHARE_UPDATE_EXCLUSIVE)
        elif node.objtype in ON_A_TABLE:
            self._lock(self._dotted(node.object[:-1]), LockMode.ACCESS_SHARE)

    @read.register(ast.GrantStmt)
    def _(self, node: Any) -> None:
        if node.objtype == OBJECT.OBJECT_TABLE and self.catalogue.version >= 18:
            for relation in node.objects or ():
                if isinstance(relation, ast.RangeVar):
                    self._lock(self._name(relation), LockMode.ACCESS_SHARE)

    @read.register(ast.AlterSeqStmt)
    def _(self, node: Any) -> None:
        self._lock(self._name(node.sequence), LockMode.SHARE_ROW_EXCLUSIVE)

    @read.register(ast.CreateStatsStmt)
    def _(self, node: Any) -> None:
        for relation in node.relations:
            self._lock(self._name(relation), LockMode.SHARE_UPDATE_EXCLUSIVE)

    @read.register(ast.CreatePublicationStmt)
    @read.register(ast.AlterPublicationStmt)
    def _(self, node: Any) -> None:
        for each in node.pubobjects or ():
            if each.pubtable is not None:
                self._lock_family(
                    self._name(each.pubtable.relation), LockMode.SHARE_UPDATE_EXCLUSIVE
                )

    @read.register(ast.CreateStmt)
    def _(self, node: Any) -> None:
        if self._existing(self._name(node.relation)):
            return
        for parent in node.inhRelations or ():
            name = self._name(parent)
            is_partition = node.partbound is not None
            self._lock(
                name, LockMode.ACCESS_EXCLUSIVE if is_partition else LockMode.SHARE_UPDATE_EXCLUSIVE
            )
        for element in node.tableElts or ():
            if isinstance(element, ast.TableLikeClause):
                self._lock(self._name(element.relation), LockMode.ACCESS_SHARE)
            for constraint in getattr(element, "constraints", None) or (element,):
                if getattr(constraint, "contype", None) == CON.CONSTR_FOREIGN:
                    self._lock_family(self._name(constraint.pktable), LockMode.SHARE_ROW_EXCLUSIVE)

    @read.register(ast.ViewStmt)
    def _(self, node: Any) -> None:
        self._read_tables(node.query)
        if node.replace:
            self._lock(self._name(node.view), LockMode.ACCESS_EXCLUSIVE)

    @read.register(ast.CreateTableAsStmt)
    def _(self, node: Any) -> None:
        self._read_tables(node.query)

    @read.register(ast.SelectStmt)
    def _(self, node: Any) -> None:
        self._read_tables(node)

    @read.register(ast.InsertStmt)
    def _(self, node: Any) -> None:
        self._write(node)
        table = self._existing(self._name(node.relation))
        for constraint in table.constraints.values() if table else ():
            if constraint.references:
                self._lock(constraint.references, LockMode.ROW_SHARE)

    @read.register(ast.UpdateStmt)
    @read.register(ast.DeleteStmt)
    @read.register(ast.MergeStmt)
    def _(self, node: Any) -> None:
        self._write(node)
        name = self._name(node.relation)
        if self._existing(name) is None:
            return
        self.effect.scans |= self._stored(name)
        if isinstance(node, ast.DeleteStmt):
            which = "rows" if node.whereClause else "all rows"
            self.effect.destroys.append(f"{which} of {_short(name)}")
        elif isinstance(node, ast.UpdateStmt) and not node.whereClause:
            columns = ", ".join(target.name for target in node.targetList or ())
            self.effect.destroys.append(f"the values of {_short(name)}.{columns} in every row")

    @read.register(ast.CopyStmt)
    def _(self, node: Any) -> None:
        if node.relation is not None:
            mode = LockMode.ROW_EXCLUSIVE if node.is_from else LockMode.ACCESS_SHARE
            self._lock_family(self._name(node.relation), mode)

    @read.register(ast.DoStmt)
    @read.register(ast.CallStmt)
    def _(self, node: Any) -> None:
        self.effect.is_opaque = True

    def _write(self, node: Any) -> None:
        self._read_tables(node)
        if isinstance(node, ast.InsertStmt):
            self._lock(self._name(node.relation), LockMode.ROW_EXCLUSIVE)
        else:
            self._lock_family(self._name(node.relation), LockMode.ROW_EXCLUSIVE)

    def _read_tables(self, node: Any) -> None:
        tables, own_names, locked = _tables_of(node)
        for relation in tables:
            if relation.schemaname or relation.relname not in own_names:
                mode = LockMode.ROW_SHARE if locked else LockMode.ACCESS_SHARE
                self._lock_family(self._name(relation), mode)
                self._read_below(self._name(relation))

    def _read_below(self, name: str) -> None:
        """What a view is made of is read with it."""
        view = self._existing(name)
        for table in view.tables_read if view else ():
            self._lock(table, LockMode.ACCESS_SHARE)
            self._read_below(table)

    # -- texts

    def _rows(self, name: str) -> int:
        return sum(relation.rows for relation in self.catalogue.family(name))

    def _break(self, text: str) -> None:
        self.effect.breaks.append(text)


def _tables_of(node: Any) -> tuple[list[Any], set[str], bool]:
    """Tables read, names of common table expressions, and whether rows are locked."""
    tables: list[Any] = []
    names: set[str] = set()
    locking: list[Any] = []

    class Collect(visitors.Visitor):
        def visit_RangeVar(self, _ancestors: Any, found: Any) -> None:
            tables.append(found)

        def visit_CommonTableExpr(self, _ancestors: Any, found: Any) -> None:
            names.add(found.ctename)

        def visit_LockingClause(self, _ancestors: Any, found: Any) -> None:
            locking.append(found)

    Collect()(node)
    return tables, names, bool(locking)


def _functions(node: Any) -> set[str]:
    found: set[str] = set()

    class Collect(visitors.Visitor):
        def visit_FuncCall(self, _ancestors: Any, call: Any) -> None:
            found.add(call.funcname[-1].sval)

    if node is not None:
        Collect()(node)
    return found


def _short(name: str) -> str:
    return name.removeprefix("public.")


def _rows(count: int) -> str:
    return f" (about {counted(count, 'row')})" if count else ""


NAMES = {"int4": "integer", "int8": "bigint", "int2": "smallint", "varchar": "character varying",
         "bpchar": "character", "bool": "boolean", "float8": "double precision", "float4": "real",
         "timestamptz": "timestamp with time zone", "timestamp": "timestamp without time zone",
         "varbit": "bit varying", "timetz": "time with time zone",
         "time": "time without time zone"}  # fmt: skip


def _type_name(node: Any) -> str:
    """As PostgreSQL's format_type writes it: `character varying(20)`, `numeric(14,2)`."""
    name = NAMES.get(node.names[-1].sval, node.names[-1].sval)
    limits = [int(getattr(m.val, "ival", 0)) for m in node.typmods or () if hasattr(m, "val")]
    text = f"({','.join(str(limit) for limit in limits)})" if limits else ""
    if name.startswith("time") and " " in name:
        first, rest = name.split(" ", 1)
        name, text = f"{first}{text} {rest}", ""
    return f"{name}{text}{'[]' if node.arrayBounds else ''}"


def _keeps_bytes(before: str, after: str) -> bool:
    """Whether ALTER COLUMN TYPE leaves the rows as they are (PostgreSQL's reference, Notes)."""
    if before == after:
        return True
    old, old_limits = _split_type(before)
    new, new_limits = _split_type(after)
    if old != new:
        return (old, new) in SAME_BYTES and not new_limits
    if old in {"character varying", "bit varying"}:
        return not new_limits or bool(old_limits and new_limits[0] >= old_limits[0])
    if old == "numeric":
        return not new_limits or bool(
            old_limits and new_limits[0] >= old_limits[0] and new_limits[1:] == old_limits[1:]
        )
    return old.startswith("time") and (
        not new_limits or (bool(old_limits) and new_limits >= old_limits)
    )


def _split_type(text: str) -> tuple[str, list[int]]:
    found = re.search(r"\(([\d,]+)\)", text)
    limits = [int(part) for part in found[1].split(",")] if found else []
    return re.sub(r"\([\d,]+\)", "", text), limits
