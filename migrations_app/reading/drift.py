"""The schema a target has against the one it should have. Readings are taken on workers."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import psycopg
from django.db import models, transaction
from django.db.models import Case, F, OuterRef, Q, Subquery, When
from django.utils import timezone
from django.utils.translation import ngettext

from migrations_app.models import ExpectedSchema, SchemaReading, SchemaText
from opsconsole.access.models import User
from opsconsole.environments.models import Target
from opsconsole.environments.secrets import resolve_dsn
from opsconsole.exceptions import AdapterError
from opsconsole.runs.choices import RunKind, RunStatus
from opsconsole.runs.models import Run
from opsconsole.runs.patience import save_new
from opsconsole.targets import ddl_log, server
from opsconsole.targets.schema import read_schema, schema_hash

Row = TypeVar("Row", ExpectedSchema, SchemaReading)

logger = logging.getLogger(__name__)
READ_SECONDS = 30
# Of the whole reading, when the server is stuck.
MOST_SECONDS = 300
# Definitions are read under a lock that every reader takes: given up rather than waited for.
LOCK_SECONDS = 1
# A reading takes a while: what was logged meanwhile must not fall between two of them.
OVERLAP_SECONDS = 30


@dataclass(frozen=True)
class Seen:
    """A schema that a target has now, and what its log of changes says since the last reading.

    `begun_at` is before the first of it was read: a change made later may be missing. `log` is as
    `ddl_log.read_changes` returns it; None where the target keeps none.
    """

    begun_at: datetime
    objects: dict[str, str]
    log: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Change:
    """One object that differs. `sign` is +, - or ~; `lines` its definition, or what changed in it."""

    sign: str
    name: str
    lines: list[str]


@dataclass(frozen=True)
class Drift:
    """How the newest reading of a target differs from what is expected."""

    expected: ExpectedSchema
    reading: SchemaReading
    changes: list[Change]

    @property
    def summary(self) -> str:
        count = len(self.changes)
        return ngettext(
            "the schema drifted: %(n)d object differs from what is expected",
            "the schema drifted: %(n)d objects differ from what is expected",
            count,
        ) % {"n": count}

    @property
    def log(self) -> list[dict[str, Any]]:
        """Who did what, and when, to the objects that differ, the newest first."""
        names = [change.name for change in self.changes]
        return [
            entry
            for entry in self.reading.log
            if any(concerns(entry["object"], name) for name in names)
        ]


@dataclass(frozen=True)
class Comparison:
    """What a target should have beside the newest reading of what it has; None: not read yet."""

    expected: ExpectedSchema | None
    reading: SchemaReading | None
    drift: Drift | None


def concerns(logged: str, name: str) -> bool:
    """Whether what the log calls an object (`public.users`) is the changed one, or holds it.

    `name` is a key of the canonical schema: `column public.users.phone`.
    """
    identity = re.escape(logged.partition("(")[0])
    return re.search(rf'(?<![\w."]){identity}(?![\w"])', name) is not None


def look_at(connection: psycopg.Connection, target: Target) -> Seen:
    """Read the schema, and the log of its changes since the last reading."""
    latest = target.schema_readings.first()
    begun = timezone.now()
    since = (begun - latest.last_read_at).total_seconds() if latest else 0
    schema = read_schema(connection)
    return Seen(begun, schema, ddl_log.read_changes(connection, since + OVERLAP_SECONDS))


def keep_reading(target: Target, seen: Seen) -> SchemaReading:
    """Store a schema that the target has now; the first one ever is also what is expected."""
    schema = _keep(seen.objects)
    latest, expected = target.schema_readings.first(), target.expected_schemas.first()
    reading = (
        latest
        if latest and latest.schema_id == schema.pk
        else SchemaReading(target=target, schema=schema)
    )
    had_drifted = latest and expected and latest.schema_id != expected.schema_id
    before = latest.log if latest and had_drifted else []
    fresh = seen.log or []
    reading.log = (fresh + [entry for entry in before if entry not in fresh])[: ddl_log.LATEST]
    reading.has_log = seen.log is not None
    reading.last_read_at = seen.begun_at
    reading.save()
    if expected is None:
        expect(target, schema, ExpectedSchema.Because.FIRST)
    return reading


def expect(
    target: Target,
    schema: SchemaText,
    because: ExpectedSchema.Because,
    *,
    run: Run | None = None,
    accepted_by: User | None = None,
    reason: str = "",
) -> ExpectedSchema:
    """Say which schema the target should have from now on."""
    row = ExpectedSchema(
        target=target,
        schema=schema,
        because=because,
        run=run,
        accepted_by=accepted_by,
        reason=reason,
    )
    save_new(row)
    return row


def check_drift(target: Target) -> SchemaReading | None:
    """Read the schema now and keep it; None while a run is changing it or it cannot be read."""
    if _is_changing(target):
        return None
    try:
        seen = _read(target)
    except (AdapterError, psycopg.Error) as error:
        logger.warning("schema of target %s not read: %s", target.pk, type(error).__name__)
        return None
    # One that began meanwhile may have been half-way.
    if _is_changing(target):
        return None
    for run in _unsettled_runs(target):
        _settle(run, seen)
        Run.objects.filter(pk=run.pk).update(result=run.result)
    return keep_reading(target, seen)


def settle_after_run(run: Run) -> None:
    """What a run changed is expected; what had drifted before it still is drift.

    A migrate run reads the schema before it begins; a restore replaces the newest one read. What
    cannot be read now is settled by the next `check_drift`.
    """
    try:
        seen = _read(run.target)
    except (AdapterError, psycopg.Error) as error:
        logger.warning("schema after run %s not read: %s", run.pk, type(error).__name__)
        return
    _settle(run, seen)


def _unsettled_runs(target: Target) -> list[Run]:
    """Runs that may have changed the schema, and after which it could not be read."""
    expected = target.expected_schemas.first()
    if expected is None:
        return []
    return list(
        Run.objects.filter(
            target=target, result__has_key="schema_before", finished_at__gt=expected.since
        )
        .exclude(result__has_key="schema_after")
        .order_by("pk")
    )


@transaction.atomic
def _settle(run: Run, seen: Seen) -> None:
    """All of it or nothing, and once: a restore compares with what the reading replaces."""
    run.result["schema_after"] = schema_hash(seen.objects)
    before = _schema_before(run)
    keep_reading(run.target, seen)
    expected = run.target.expected_schemas.select_related("schema").first()
    if before is None or expected is None or before.pk == run.result["schema_after"]:
        return
    if expected.run_id == run.pk:
        return
    after = patched(expected.schema.definitions, before.definitions, seen.objects)
    expect(run.target, _keep(after), ExpectedSchema.Because.RUN, run=run)


def _schema_before(run: Run) -> SchemaText | None:
    """What the run began with; None for one that changes no schema."""
    if run.kind == RunKind.RESTORE:
        latest = run.target.schema_readings.select_related("schema").first()
        return latest.schema if latest else None
    return SchemaText.objects.filter(pk=run.result.get("schema_before", "")).first()


def patched(
    expected: dict[str, str], before: dict[str, str], after: dict[str, str]
) -> dict[str, str]:
    """`expected` with what changed from `before` to `after`."""
    result = dict(expected)
    for name in before.keys() | after.keys():
        if before.get(name) != after.get(name):
            result.pop(name, None)
            if name in after:
                result[name] = after[name]
    return result


def drift_of(target: Target) -> Drift | None:
    """How the newest reading differs from what is expected; None when it does not."""
    return drifts_of([target]).get(target.pk)


def drifts_of(targets: Iterable[Target]) -> dict[int, Drift]:
    """The drift of each target that has one, by its id. Two queries for all."""
    found = comparisons_of(targets).items()
    return {target_id: comparison.drift for target_id, comparison in found if comparison.drift}


def comparisons_of(targets: Iterable[Target]) -> dict[int, Comparison]:
    """What each target should have and has, by its id; as many queries as for their drifts."""
    ids = [target.pk for target in targets]
    runs_and_people = ExpectedSchema.objects.select_related("run", "accepted_by").defer(
        "run__parameters", "run__result", "run__summary", "run__summary_parts"
    )
    expected = _newest(runs_and_people, ids, "since", unlike=SchemaReading)
    readings = _newest(SchemaReading.objects.all(), ids, "last_read_at", unlike=ExpectedSchema)
    return {
        pk: Comparison(should, reading, _drift_between(should, reading))
        for pk in ids
        for should, reading in [(expected.get(pk), readings.get(pk))]
    }


def _newest(
    rows: models.QuerySet[Row], ids: list[int], moment: str, *, unlike: type[models.Model]
) -> dict[int, Row]:
    """The newest row of each target; with its definitions only where the newest of `unlike` has
    another schema, as they are large and most targets have the one expected."""
    others = unlike._default_manager.filter(target=OuterRef("target"))
    apart = When(~Q(schema=Subquery(others.values("schema")[:1])), then=F("schema__definitions"))
    found = (
        rows.filter(target__in=ids)
        .annotate(definitions=Case(apart, output_field=models.JSONField()))
        .order_by("target_id", f"-{moment}")
        .distinct("target_id")
    )
    for each in found:
        if each.definitions is not None:
            each.schema = SchemaText(each.schema_id, each.definitions)
    return {each.target_id: each for each in found}


def _drift_between(should: ExpectedSchema | None, reading: SchemaReading | None) -> Drift | None:
    if not should or not reading or should.schema_id == reading.schema_id:
        return None
    changes = changes_between(should.schema.definitions, reading.schema.definitions)
    return Drift(should, reading, list(changes))


def changes_between(before: dict[str, str], after: dict[str, str]) -> Iterable[Change]:
    """Every object that differs, by name, with the lines that a person reads."""
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old is None and new is not None:
            yield Change("+", name, new.splitlines())
        elif new is None:
            yield Change("-", name, [])
        elif old is not None and old != new:
            yield Change("~", name, _changed_lines(old, new))


def _changed_lines(old: str, new: str) -> list[str]:
    lines = list(difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=1))
    # Without the two headings and the place.
    return [line for line in lines[2:] if not line.startswith("@@")]


def _keep(objects: dict[str, str]) -> SchemaText:
    schema, _made = SchemaText.objects.get_or_create(
        pk=schema_hash(objects), defaults={"definitions": objects}
    )
    return schema


def _is_changing(target: Target) -> bool:
    return Run.objects.holding(target.pk).filter(status__in=RunStatus.active()).exists()


def _read(target: Target) -> Seen:
    with (
        server.connect(
            resolve_dsn(target), application_name="opsconsole:drift", timeout_seconds=READ_SECONDS
        ) as connection,
        server.cut_off_after(MOST_SECONDS, connection),
    ):
        connection.execute("SELECT set_config('lock_timeout', %s, false)", [f"{LOCK_SECONDS}s"])
        return look_at(connection, target)
