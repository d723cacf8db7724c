"""Retention: rules that hold over random histories, and each story of lost data by its name."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from backups_app.retention import PERIODS, Fact, Rules, decide, simulate

START = datetime(2026, 1, 1, 3, tzinfo=UTC)
DAY = timedelta(days=1)


def day(number: float, **more) -> Fact:
    more.setdefault("id", int(number * 1000))
    return Fact(taken_at=START + number * DAY, **more)


def kept(facts: list[Fact], rules: Rules) -> list[int]:
    return sorted(decision.id for decision in decide(facts, rules) if decision.keeps)


def days_kept(facts: list[Fact], rules: Rules) -> list[float]:
    return [identity / 1000 for identity in kept(facts, rules)]


REASONS = ("scheduled", "manual", "pre_migration", "before_restore", "imported")
maybe = st.none() | st.integers(0, 12)
histories = st.lists(
    st.tuples(
        st.integers(0, 800 * 24),
        st.sampled_from(REASONS),
        st.integers(0, 1000),
        st.booleans(),
        st.integers(0, 9).map(lambda n: n == 0),
        st.integers(0, 9).map(lambda n: n == 0),
    ),
    max_size=40,
).map(
    lambda rows: [
        Fact(number, START + hours * timedelta(hours=1), reason, size, proven, held, busy)
        for number, (hours, reason, size, proven, held, busy) in enumerate(rows)
    ]
)
policies = st.builds(
    Rules,
    keep_days=st.none() | st.integers(0, 400),
    keep_last=maybe,
    daily=maybe,
    weekly=maybe,
    monthly=maybe,
    yearly=maybe,
    class_days=st.dictionaries(st.sampled_from(REASONS), st.integers(0, 400), max_size=3),
    minimum_kept=st.integers(0, 5),
    maximum_bytes=st.none() | st.integers(0, 20_000),
    time_zone=st.sampled_from(["UTC", "Europe/Warsaw", "Pacific/Kiritimati"]),
)


@settings(max_examples=300)
@given(histories, policies)
def test_every_backup_gets_one_decision_with_its_reason(facts, rules):
    decisions = decide(facts, rules)
    assert sorted(d.id for d in decisions) == sorted(fact.id for fact in facts)
    assert all(d.why for d in decisions)
    assert decide(list(reversed(facts)), rules) == decisions


@settings(max_examples=300)
@given(histories, policies)
def test_newest_proven_held_and_busy_ones_are_never_deleted(facts, rules):
    stays = set(kept(facts, rules))
    proven = sorted((f for f in facts if f.is_proven), key=lambda f: (f.taken_at, f.id))
    if proven:
        assert proven[-1].id in stays
    assert {f.id for f in facts if f.is_held or f.is_busy} <= stays


@settings(max_examples=300)
@given(histories, policies)
def test_minimum_is_met_by_proven_ones_alone(facts, rules):
    proven = [f.id for f in facts if f.is_proven]
    stays = set(kept(facts, rules))
    assert len(stays & set(proven)) >= min(rules.minimum_kept, len(proven))


@settings(max_examples=300)
@given(histories)
def test_empty_policy_deletes_nothing(facts):
    assert kept(facts, Rules()) == sorted(f.id for f in facts)


@settings(max_examples=300)
@given(histories, policies)
def test_adding_a_rule_never_deletes_more(facts, rules):
    if rules.is_empty or rules.maximum_bytes is not None:
        return
    more = Rules(**{**vars(rules), "keep_last": (rules.keep_last or 0) + 3})
    assert set(kept(facts, rules)) <= set(kept(facts, more))


@settings(max_examples=300)
@given(histories, policies)
def test_deciding_again_over_what_is_left_deletes_nothing_more(facts, rules):
    stays = set(kept(facts, rules))
    left = [f for f in facts if f.id in stays]
    assert set(kept(left, rules)) == stays


@settings(max_examples=300)
@given(histories, policies)
def test_time_passing_without_a_new_backup_deletes_nothing(facts, rules):
    """Ages count from the newest proven backup: the decision does not read the clock."""
    shifted = [Fact(**{**vars(f), "taken_at": f.taken_at - 365 * 7 * DAY}) for f in facts]
    without_periods = Rules(
        **{**vars(rules), "weekly": None, "monthly": None, "yearly": None, "daily": None}
    )
    assert kept(shifted, without_periods) == kept(facts, without_periods)


@settings(max_examples=300)
@given(
    histories,
    st.sampled_from(sorted(PERIODS)),
    st.integers(1, 12),
    st.sampled_from(["UTC", "Europe/Warsaw", "Pacific/Kiritimati"]),
)
def test_one_of_each_of_the_last_periods_is_kept(facts, period, count, zone):
    rules = Rules(**{period: count, "time_zone": zone, "minimum_kept": 0})
    stays = set(kept(facts, rules))
    of = PERIODS[period][1]
    seen: dict[tuple, Fact] = {}
    for fact in sorted(facts, key=lambda f: (f.taken_at, f.id), reverse=True):
        if fact.is_proven:
            seen.setdefault(of(fact.taken_at.astimezone(ZoneInfo(zone))), fact)
    assert {fact.id for fact in list(seen.values())[:count]} <= stays


@settings(max_examples=300)
@given(histories, policies)
def test_size_limit_holds_unless_what_is_left_is_beyond_question(facts, rules):
    if rules.maximum_bytes is None:
        return
    certain = set(kept(facts, Rules(keep_last=0, minimum_kept=rules.minimum_kept)))
    stays = kept(facts, rules)
    total = sum(f.size_bytes for f in facts if f.id in stays)
    assert total <= rules.maximum_bytes or set(stays) <= certain


# -- rules by example


def test_keep_days_counts_from_the_newest_proven_backup():
    assert days_kept([day(n) for n in range(10)], Rules(keep_days=3)) == [7, 8, 9]


def test_rules_are_ored():
    facts = [day(n) for n in range(0, 100)]
    rules = Rules(keep_last=2, monthly=3)
    # The last of January (day 30), of February (58), of March (89) and of April (99).
    assert days_kept(facts, rules) == [58, 89, 98, 99]


def test_classes_have_days_of_their_own():
    facts = [day(0, reason="pre_migration"), day(1), day(10)]
    rules = Rules(keep_days=5, class_days={"pre_migration": 30})
    assert days_kept(facts, rules) == [0, 10]
    assert decide(facts, rules)[-1].why == "pre migration, of the last 30 days"


def test_reason_of_what_goes_says_its_age():
    (_newest, goes) = decide([day(0), day(10)], Rules(keep_days=5))
    assert goes.why == "10.0 days older than the newest proven backup, and no rule keeps it"


def test_size_limit_takes_the_oldest_first():
    facts = [day(n, size_bytes=10) for n in range(5)]
    assert days_kept(facts, Rules(keep_last=5, maximum_bytes=30)) == [2, 3, 4]


# -- stories of lost data


def test_thirty_days_of_failing_backups_do_not_delete_every_good_one():
    good = [day(n) for n in range(5)]
    failing = [day(5 + n, is_proven=False) for n in range(30)]
    assert {0, 1, 2, 3, 4} <= set(days_kept(good + failing, Rules(keep_days=7)))


def test_success_reported_but_nothing_restorable_does_not_count_as_a_backup():
    """pgbackweb #42, #116: an unproven archive never displaces a proven one."""
    facts = [day(0), *(day(1 + n, is_proven=False) for n in range(10))]
    assert 0 in days_kept(facts, Rules(keep_last=1))


def test_zero_bytes_successfully_backed_up_on_a_full_disk_do_not_push_out_good_ones():
    facts = [day(0, size_bytes=1000), day(1, size_bytes=0, is_proven=False)]
    assert 0 in days_kept(facts, Rules(keep_last=1, maximum_bytes=10))


def test_backup_in_progress_is_never_expired():
    """pgBackRest #2622."""
    facts = [day(0, is_proven=False, is_busy=True), day(1), day(2)]
    assert 0 in days_kept(facts, Rules(keep_last=1))


def test_minimum_count_is_not_satisfied_by_useless_ones():
    """Barman #1081."""
    facts = [day(0), day(1), *(day(2 + n, is_proven=False) for n in range(5))]
    assert {0, 1} <= set(days_kept(facts, Rules(keep_last=1, minimum_kept=2)))


def test_backup_being_restored_is_never_expired():
    facts = [day(0, is_busy=True), day(50)]
    assert days_kept(facts, Rules(keep_days=1)) == [0, 50]


def test_simulation_of_a_year_reaches_what_the_policy_keeps():
    rules = Rules(keep_days=7, weekly=4, monthly=12)
    history = simulate([day(0, size_bytes=100)], rules, every=DAY, start=START, days=365)
    assert len(history) == 365
    # Seven days; two of the four weeks and ten of the twelve months are not among them.
    assert history[-1][1:] == (19, 1900)


def test_simulation_of_an_empty_policy_keeps_growing():
    history = simulate([], Rules(), every=DAY, start=START, days=30)
    assert [count for _day, count, _size in history] == list(range(1, 31))
