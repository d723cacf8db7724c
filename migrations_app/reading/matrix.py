"""Migrations as rows, environments as columns: where each stands, from what workers saw."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from urllib.parse import quote

from django.db.models import F, Func, JSONField, QuerySet

from migrations_app.assess.impact import Risk
from migrations_app.engines import ENGINES
from migrations_app.reading.readings import MigrationRead, Reading, reading_of
from opsconsole.environments.migration_status import MigrationStatus
from opsconsole.environments.models import Environment, Target, TargetState
from opsconsole.runs.models import Run

# When a migration was applied (ISO 8601), and how many seconds it took, by its name.
Times = dict[str, tuple[str, float]]


@dataclass(frozen=True)
class Cell:
    """One migration in one environment. `seconds` is how long it took to apply."""

    where: str
    state: MigrationStatus
    url: str = ""
    applied_at: datetime | None = None
    seconds: float | None = None
    risk: Risk | None = None


@dataclass(frozen=True)
class Column:
    """One target with its newest state, and what the tool's own status says of it."""

    target: Target
    state: TargetState | None

    @property
    def environment(self) -> Environment:
        return self.target.environment

    @cached_property
    def reading(self) -> Reading:
        return reading_of(self.state)


@dataclass(frozen=True)
class Row:
    name: str
    cells: list[Cell]


@dataclass(frozen=True)
class Board:
    """`rows` newest first; `counts` of every status over all rows, before any filter."""

    columns: list[Column]
    rows: list[Row]
    counts: list[tuple[MigrationStatus, int]]


def read_board(targets: list[Target], *, state: str = "", text: str = "") -> Board:
    """The board of an application's targets, in promotion order. One query, and one more
    where the tool's history keeps no times: the console's runs do.

    `state` keeps the rows with that state in any target, `text` those whose name holds it.
    """
    columns = _columns(targets)
    times = _times_of_runs(columns)
    cells = [_cells(column, times.get(column.target.pk, {})) for column in columns]
    names = sorted({name for column in cells for name in column}, reverse=True)
    rows = [
        Row(
            name,
            [
                found.get(name) or Cell(column.environment.name, MigrationStatus.UNKNOWN)
                for column, found in zip(columns, cells, strict=True)
            ],
        )
        for name in names
    ]
    shown = [
        row
        for row in rows
        if text.lower() in row.name.lower()
        and (not state or any(cell.state == state for cell in row.cells))
    ]
    return Board(columns, shown, _counts(rows))


def url_of(environment: Environment, name: str) -> str:
    """Where the page of a migration is."""
    return f"{environment.get_absolute_url()}/migrations/{quote(name, safe='')}"


def read_names(targets: Iterable[Target]) -> dict[int, list[str]]:
    """The names of all migrations that each target was seen with, by its id. One query,
    which leaves the rest of the states where it is."""
    names = Func(
        F("data"),
        template="jsonb_path_query_array(%(expressions)s, '$.migrations[*].name')",
        output_field=JSONField(),
    )
    return dict(_newest_states(targets).values_list("target", names))


def _newest_states(targets: Iterable[Target]) -> QuerySet[TargetState]:
    return (
        TargetState.objects.filter(target__in=targets)
        .order_by("target_id", "-observed_at")
        .distinct("target_id")
    )


def _columns(targets: list[Target]) -> list[Column]:
    states = {found.target_id: found for found in _newest_states(targets)}
    return [Column(target, states.get(target.pk)) for target in targets]


def _times_of_runs(columns: list[Column]) -> dict[int, Times]:
    """When runs applied what, by target; only for tools that keep no times themselves."""
    silent = [
        column.target.pk
        for column in columns
        if not ENGINES[column.environment.application.engine].records_starts
    ]
    if not silent:
        return {}
    found: dict[int, Times] = {pk: {} for pk in silent}
    runs = Run.objects.filter(target__in=silent, result__has_key="timings").order_by("pk")
    for pk, timings in runs.values_list("target_id", "result__timings"):
        found[pk].update(timings)
    return found


def _cells(column: Column, times: Times) -> dict[str, Cell]:
    migrations = column.reading.migrations
    where = column.environment.name
    first_applied = next(
        (
            i
            for i, m in enumerate(migrations)
            if m.state is MigrationStatus.APPLIED and not m.by_hand
        ),
        len(migrations),
    )
    return {
        m.name: _cell(
            where,
            m,
            url_of(column.environment, m.name),
            times.get(m.name),
            is_baseline=i < first_applied,
        )
        for i, m in enumerate(migrations)
    }


def _cell(
    where: str,
    migration: MigrationRead,
    url: str,
    time: tuple[str, float] | None,
    *,
    is_baseline: bool,
) -> Cell:
    state = migration.state
    if state is MigrationStatus.APPLIED and migration.by_hand:
        state = MigrationStatus.BASELINE if is_baseline else MigrationStatus.BY_HAND
    if time and state is MigrationStatus.APPLIED:
        return Cell(where, state, url, datetime.fromisoformat(time[0]), time[1])
    began, ended = migration.started_at, migration.finished_at
    if began is None or ended is None:
        return Cell(where, state, url, risk=migration.risk)
    return Cell(where, state, url, ended, max(0.0, (ended - began).total_seconds()))


def _counts(rows: Iterable[Row]) -> list[tuple[MigrationStatus, int]]:
    found = dict.fromkeys(MigrationStatus, 0)
    for row in rows:
        for state in {cell.state for cell in row.cells}:
            found[state] += 1
    return [(state, count) for state, count in found.items() if count]
