"""Which backups a policy keeps, and why. Pure: facts in, decisions out.

The rules are ORed: a backup goes only when no rule keeps it. Ages count from the newest proven
backup, not from now, so that a month of failing backups deletes nothing. A policy without any
keeping rule deletes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from opsconsole.formats import size

DAY = timedelta(days=1)
# How a period is named, and how a moment's period is found.
PERIODS: dict[str, tuple[str, Callable[[datetime], tuple[int, ...]]]] = {
    "daily": ("day", lambda moment: (moment.year, moment.month, moment.day)),
    "weekly": ("week", lambda moment: tuple(moment.isocalendar()[:2])),
    "monthly": ("month", lambda moment: (moment.year, moment.month)),
    "yearly": ("year", lambda moment: (moment.year,)),
}


@dataclass(frozen=True)
class Rules:
    """A retention policy. None turns a rule off; counts are in days or in backups.

    `class_days` keeps backups of a reason (`manual`, `pre_migration` ...) for so many days.
    """

    keep_days: int | None = None
    keep_last: int | None = None
    daily: int | None = None
    weekly: int | None = None
    monthly: int | None = None
    yearly: int | None = None
    class_days: Mapping[str, int] = field(default_factory=dict)
    minimum_kept: int = 1
    maximum_bytes: int | None = None
    time_zone: str = "UTC"

    @property
    def is_empty(self) -> bool:
        """Whether nothing says what to keep; then nothing is deleted, except by size."""
        return (
            all(
                rule is None
                for rule in (
                    self.keep_days,
                    self.keep_last,
                    self.daily,
                    self.weekly,
                    self.monthly,
                    self.yearly,
                )
            )
            and not self.class_days
        )


@dataclass(frozen=True)
class Fact:
    """One backup, as far as retention is concerned. `reason` is why it was taken."""

    id: int
    taken_at: datetime
    reason: str = "scheduled"
    size_bytes: int = 0
    is_proven: bool = True
    is_held: bool = False
    is_busy: bool = False


@dataclass(frozen=True)
class Decision:
    """Whether a backup stays, and the sentence that says why."""

    id: int
    keeps: bool
    why: str


def decide(facts: Iterable[Fact], rules: Rules) -> list[Decision]:
    """One decision per backup, newest first."""
    ordered = sorted(facts, key=lambda fact: (fact.taken_at, fact.id), reverse=True)
    by_rule = _kept_by_rule(ordered, rules)
    kept = by_rule | _beyond_question(ordered, rules)
    _drop_beyond_size(ordered, rules, kept)
    return [
        Decision(fact.id, True, kept[fact.id].why)
        if fact.id in kept
        else Decision(fact.id, False, _why_it_goes(fact, ordered, rules, fact.id in by_rule))
        for fact in ordered
    ]


@dataclass(frozen=True)
class _Kept:
    why: str
    is_certain: bool = False


def _proven(ordered: list[Fact]) -> list[Fact]:
    return [fact for fact in ordered if fact.is_proven]


def _beyond_question(ordered: list[Fact], rules: Rules) -> dict[int, _Kept]:
    """What no rule and no size may take: held, in use, and the newest proven ones."""
    proven = _proven(ordered)
    certain = {
        fact.id: _Kept(f"one of the {rules.minimum_kept} newest proven ones", True)
        for fact in proven[: max(rules.minimum_kept, 1)]
    }
    if proven:
        certain[proven[0].id] = _Kept("the newest proven backup", True)
        # Newer ones that are not proven yet may still become the newest proven one.
        for fact in ordered[: ordered.index(proven[0])]:
            certain[fact.id] = _Kept("newer than the newest proven backup", True)
    else:
        certain |= {fact.id: _Kept("no backup is proven", True) for fact in ordered}
    certain |= {fact.id: _Kept("a run uses it", True) for fact in ordered if fact.is_busy}
    certain |= {fact.id: _Kept("on hold", True) for fact in ordered if fact.is_held}
    return certain


def _kept_by_rule(ordered: list[Fact], rules: Rules) -> dict[int, _Kept]:
    if rules.is_empty:
        return {fact.id: _Kept("no rule deletes anything") for fact in ordered}
    proven = _proven(ordered)
    if not proven:
        return {}
    newest = proven[0].taken_at
    kept: dict[int, _Kept] = {}
    _keep_periods(proven, rules, kept)
    for fact in proven[: rules.keep_last or 0]:
        kept[fact.id] = _Kept(f"one of the last {rules.keep_last}")
    for fact in ordered:
        days = rules.class_days.get(fact.reason)
        if days is not None and newest - fact.taken_at < days * DAY:
            kept[fact.id] = _Kept(f"{_class(fact)}, of the last {days} days")
        elif rules.keep_days is not None and newest - fact.taken_at < rules.keep_days * DAY:
            kept[fact.id] = _Kept(f"of the last {rules.keep_days} days")
    return kept


def _keep_periods(proven: list[Fact], rules: Rules, kept: dict[int, _Kept]) -> None:
    """The newest proven backup of each of the last so many periods that have one."""
    zone = ZoneInfo(rules.time_zone)
    for rule, (period, of) in PERIODS.items():
        count = getattr(rules, rule) or 0
        seen: set[tuple[int, ...]] = set()
        for fact in proven:
            which = of(fact.taken_at.astimezone(zone))
            if which in seen:
                continue
            if len(seen) == count:
                break
            seen.add(which)
            kept.setdefault(fact.id, _Kept(f"the last of its {period}"))


def _drop_beyond_size(ordered: list[Fact], rules: Rules, kept: dict[int, _Kept]) -> None:
    """Take the oldest until what is left fits the maximum; what is certain stays all the same."""
    if rules.maximum_bytes is None:
        return
    total = sum(fact.size_bytes for fact in ordered if fact.id in kept)
    for fact in reversed(ordered):
        if total <= rules.maximum_bytes:
            return
        if fact.id in kept and not kept[fact.id].is_certain:
            del kept[fact.id]
            total -= fact.size_bytes


def _why_it_goes(fact: Fact, ordered: list[Fact], rules: Rules, was_kept: bool) -> str:
    if was_kept:
        return f"all together are larger than {size(rules.maximum_bytes or 0)}"
    age = (_proven(ordered)[0].taken_at - fact.taken_at) / DAY
    return f"{age:,.1f} days older than the newest proven backup, and no rule keeps it"


def _class(fact: Fact) -> str:
    return fact.reason.replace("_", " ")


def simulate(
    facts: Iterable[Fact], rules: Rules, *, every: timedelta, start: datetime, days: int
) -> list[tuple[datetime, int, int]]:
    """What a year under this policy would look like: `(day, backups kept, bytes kept)` per day.

    A proven scheduled backup of the median size is taken every `every`, starting at `start`.
    """
    held = list(facts)
    sizes = sorted(fact.size_bytes for fact in held) or [0]
    size, next_id, due = sizes[len(sizes) // 2], -1, start + every
    history = []
    for day in range(1, days + 1):
        until = start + day * DAY
        while due <= until:
            held.append(Fact(next_id, due, size_bytes=size))
            next_id, due = next_id - 1, due + every
        stays = {decision.id for decision in decide(held, rules) if decision.keeps}
        held = [fact for fact in held if fact.id in stays]
        history.append((until, len(held), sum(fact.size_bytes for fact in held)))
    return history
