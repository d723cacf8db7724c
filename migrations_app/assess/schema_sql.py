"""Write the SQL that turns one canonical schema into another. Pure: text in, text out.

Source of every form: PostgreSQL's documentation of the command. What cannot be written without
guessing (data to convert, values to take out of an enum) is left to a person, by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

NAME = r'(?:"(?:[^"]|"")*"|[^\s".]+)'
QUALIFIED = rf"{NAME}\.{NAME}"
KEY = re.compile(
    rf"(?P<kind>materialized view|event trigger|\w+) (?:(?P<part>{NAME}) on )?(?P<name>.+?)"
    rf"(?: on (?P<table>{QUALIFIED}))?$"
)
COLUMN_KEY = re.compile(rf"(?P<table>{QUALIFIED})\.(?P<column>{NAME})$")
COLUMN = re.compile(
    r"(?P<type>.+?)(?P<required> NOT NULL)?"
    r"(?: DEFAULT (?P<default>.+?))?(?P<generated> GENERATED .+)?$",
    re.DOTALL,
)
VALUES = re.compile(r"'(?:[^']|'')*'")
OWNED = re.compile(r" OWNED BY (?P<column>.+)$")

# What is made first; the other way round, what is dropped last.
ORDER = (
    "schema", "extension", "enum", "domain", "type", "sequence", "table", "column", "function",
    "procedure", "constraint", "index", "view", "materialized view", "trigger", "policy",
    "aggregate", "event trigger",
)  # fmt: skip
FIRST_CONSTRAINTS = ("PRIMARY KEY", "UNIQUE", "EXCLUDE", "CHECK")


@dataclass(frozen=True)
class Written:
    """The statements in the order in which they run, and what a person has to write."""

    statements: list[str]
    left_out: list[str]

    @property
    def sql(self) -> str:
        """The script: the statements, then what was left out as comments."""
        comments = [f"-- Write this by hand: {line}" for line in self.left_out]
        return "\n\n".join([*self.statements, *comments]) + "\n"


@dataclass(frozen=True)
class _Object:
    key: str
    kind: str
    name: str
    table: str = ""


def write_sql(before: dict[str, str], after: dict[str, str]) -> Written:
    """The SQL from `before` to `after`, both as `read_schema` returns them."""
    return _Writing(before, after).write()


@dataclass
class _Writing:
    before: dict[str, str]
    after: dict[str, str]
    statements: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def write(self) -> Written:
        gone = [o for o in _sorted(self.before) if o.key not in self.after]
        made = [o for o in _sorted(self.after) if o.key not in self.before]
        changed = [
            o
            for o in _sorted(self.after)
            if o.key in self.before and self.before[o.key] != self.after[o.key]
        ]
        rebuilt = [o for o in changed if o.kind in REBUILT]
        for each in reversed([*gone, *rebuilt]):
            self._drop(each)
        for each in made:
            if not self._is_inside_another(each):
                self._make(each)
        for each in changed:
            if each.kind in REBUILT:
                self._make(each)
            else:
                self._change(each)
        self._own_sequences([*made, *changed])
        return Written(self.statements, self.left_out)

    # -- making

    def _make(self, item: _Object) -> None:
        definition = self.after[item.key]
        match item.kind:
            case "schema":
                self._say(f"CREATE SCHEMA {item.name}")
            case "extension":
                self._say(f"CREATE EXTENSION IF NOT EXISTS {item.name}")
            case "enum":
                self._say(f"CREATE TYPE {item.name} AS ENUM ({definition})")
            case "domain":
                self._say(f"CREATE DOMAIN {item.name} AS {definition}")
            case "type":
                self._say(f"CREATE TYPE {item.name} AS ({definition})")
            case "sequence":
                self._say(f"CREATE SEQUENCE {item.name} {OWNED.sub('', definition)}")
            case "table":
                self._make_table(item, definition)
            case "column":
                self._say(f"ALTER TABLE {item.table} ADD COLUMN {item.name} {definition}")
            case "constraint":
                self._say(f"ALTER TABLE {item.table} ADD CONSTRAINT {item.name} {definition}")
            case "index" if not definition.endswith(" INVALID"):
                self._say(definition)
            case "function" | "procedure" | "trigger":
                self._say(definition)
            case "view" | "materialized view":
                kind = item.kind.upper()
                self._say(f"CREATE {kind} {item.name} AS {definition.strip().rstrip(';')}")
            case "policy":
                self._make_policy(item, definition)
            case _:
                self._leave(item, "made")

    def _make_table(self, item: _Object, definition: str) -> None:
        if definition not in {"", "UNLOGGED", "ROW LEVEL SECURITY"} and not definition.startswith(
            "PARTITION BY"
        ):
            self._leave(item, f"made ({definition})")
            return
        columns = ",\n".join(
            f"    {o.name} {self.after[o.key]}"
            for o in map(_parse, self.after)
            if o.kind == "column" and o.table == item.name
        )
        words = "CREATE UNLOGGED TABLE" if definition == "UNLOGGED" else "CREATE TABLE"
        tail = f" {definition}" if definition.startswith("PARTITION BY") else ""
        self._say(f"{words} {item.name} (\n{columns}\n){tail}")
        if definition == "ROW LEVEL SECURITY":
            self._say(f"ALTER TABLE {item.name} ENABLE ROW LEVEL SECURITY")

    def _make_policy(self, item: _Object, definition: str) -> None:
        command, _space, rest = definition.partition(" ")
        how = ""
        if rest.startswith("RESTRICTIVE"):
            how, rest = " AS RESTRICTIVE", rest.removeprefix("RESTRICTIVE").strip()
        rest = rest.strip()
        self._say(f"CREATE POLICY {item.name} ON {item.table}{how} FOR {command} {rest}".rstrip())

    def _is_inside_another(self, item: _Object) -> bool:
        """A column of a new table, or the index of a constraint: made together with it."""
        if item.kind == "column":
            return f"table {item.table}" not in self.before
        return item.kind == "index" and _constraint_of(item) in self.after

    # -- dropping

    def _drop(self, item: _Object) -> None:
        is_inside = (
            item.kind in {"column", "constraint", "index", "trigger", "policy"}
            and item.table
            and f"table {item.table}" not in self.after
        )
        if is_inside or (item.kind == "index" and _constraint_of(item) in self.before):
            return
        match item.kind:
            case "column":
                self._say(f"ALTER TABLE {item.table} DROP COLUMN {item.name}")
            case "constraint":
                self._say(f"ALTER TABLE {item.table} DROP CONSTRAINT {item.name}")
            case "trigger" | "policy":
                self._say(f"DROP {item.kind.upper()} {item.name} ON {item.table}")
            case "enum" | "type":
                self._say(f"DROP TYPE {item.name}")
            case "sequence":
                # One that a dropped column owned is gone with it.
                self._say(f"DROP SEQUENCE IF EXISTS {item.name}")
            case _:
                self._say(f"DROP {item.kind.upper()} {item.name}")

    # -- changing

    def _change(self, item: _Object) -> None:
        before, after = self.before[item.key], self.after[item.key]
        match item.kind:
            case "column":
                self._change_column(item, before, after)
            case "enum":
                self._change_enum(item, before, after)
            case "sequence":
                if OWNED.sub("", before) != OWNED.sub("", after):
                    self._say(f"ALTER SEQUENCE {item.name} {OWNED.sub('', after)}")
            case "table" if {before, after} == {"", "ROW LEVEL SECURITY"}:
                word = "ENABLE" if after else "DISABLE"
                self._say(f"ALTER TABLE {item.name} {word} ROW LEVEL SECURITY")
            case "table" if {before, after} == {"", "UNLOGGED"}:
                self._say(f"ALTER TABLE {item.name} SET {after or 'LOGGED'}")
            case _:
                self._leave(item, "changed")

    def _change_column(self, item: _Object, before: str, after: str) -> None:
        old, new = COLUMN.match(before), COLUMN.match(after)
        if not old or not new or old["generated"] != new["generated"]:
            self._leave(item, f"changed from {before} to {after}")
            return
        start = f"ALTER TABLE {item.table} ALTER COLUMN {item.name}"
        if old["type"] != new["type"]:
            self._say(f"{start} TYPE {new['type']}")
        if old["default"] != new["default"]:
            self._say(
                f"{start} SET DEFAULT {new['default']}"
                if new["default"]
                else f"{start} DROP DEFAULT"
            )
        if old["required"] != new["required"]:
            self._say(f"{start} {'SET' if new['required'] else 'DROP'} NOT NULL")

    def _change_enum(self, item: _Object, before: str, after: str) -> None:
        old, new = VALUES.findall(before), VALUES.findall(after)
        if [value for value in new if value in old] != old:
            self._leave(item, f"changed from {before} to {after}")
            return
        for number, value in enumerate(new):
            if value not in old:
                where = f"AFTER {new[number - 1]}" if number else f"BEFORE {old[0]}"
                self._say(f"ALTER TYPE {item.name} ADD VALUE {value} {where}")

    def _own_sequences(self, items: list[_Object]) -> None:
        for item in items:
            owned = OWNED.search(self.after[item.key]) if item.kind == "sequence" else None
            if owned and self.before.get(item.key, "").endswith(owned[0]) is False:
                self._say(f"ALTER SEQUENCE {item.name} OWNED BY {owned['column']}")

    def _say(self, statement: str) -> None:
        self.statements.append(f"{statement.strip().rstrip(';')};")

    def _leave(self, item: _Object, what: str) -> None:
        self.left_out.append(" ".join(f"{item.key} was {what}".split()))


# Dropped and made again when they differ: they hold no rows of their own.
REBUILT = {
    "index",
    "constraint",
    "view",
    "materialized view",
    "trigger",
    "policy",
    "function",
    "procedure",
}


def _sorted(schema: dict[str, str]) -> Iterator[_Object]:
    """In the order of making; foreign keys after what they may point at."""

    def place(item: _Object) -> tuple[int, bool, str]:
        is_late = item.kind == "constraint" and not schema[item.key].startswith(FIRST_CONSTRAINTS)
        return ORDER.index(item.kind), is_late, item.key

    return iter(sorted(map(_parse, schema), key=place))


def _parse(key: str) -> _Object:
    found = KEY.match(key)
    assert found is not None, key
    kind, name = found["kind"], found["name"]
    if kind == "column":
        inside = COLUMN_KEY.match(name)
        assert inside is not None, key
        return _Object(key, kind, inside["column"], inside["table"])
    if kind in {"constraint", "trigger", "policy"}:
        return _Object(key, kind, found["part"], name)
    return _Object(key, kind, name, found["table"] or "")


def _constraint_of(index: _Object) -> str:
    """The key of the constraint that an index of that name would belong to."""
    bare = re.match(rf"{NAME}\.(?P<name>{NAME})$", index.name)
    return f"constraint {bare['name'] if bare else index.name} on {index.table}"
