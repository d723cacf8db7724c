"""Samples, the half hours that they are counted into, and what the pages say from these."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from opsconsole.health import services as health
from opsconsole.health.choices import Health
from opsconsole.health.models import (
    HALF_HOUR,
    HealthCheck,
    HealthResult,
    HealthRollup,
    half_hour_of,
)
from opsconsole.runs.choices import RunKind
from opsconsole.runs.models import Run
from tests.conftest import rows_read
from tests.worker import check_environment, check_target

NOON = half_hour_of(timezone.now()) - 2 * HALF_HOUR
BEFORE = ("opsconsole", "0009_operations")


def sample(environment, **fields) -> HealthResult:
    defaults = {
        "check_name": "x",
        "is_healthy": True,
        "latency_ms": 1.0,
        "summary": "ok",
        "observed_at": NOON,
    }
    return HealthResult(environment=environment, **(defaults | fields))


def rows() -> list[tuple]:
    return list(
        HealthRollup.objects.order_by("check_name", "starts_at").values_list(
            "check_name",
            "target",
            "starts_at",
            "samples",
            "unhealthy",
            "latency_sum_ms",
            "latency_min_ms",
            "latency_max_ms",
        )
    )


def test_samples_are_counted_into_their_half_hour(environment):
    health.keep_results([sample(environment, latency_ms=3), sample(environment, latency_ms=5)])
    late = NOON + HALF_HOUR - timedelta(milliseconds=1)
    health.keep_results([sample(environment, latency_ms=1, observed_at=late)])
    health.keep_results(
        [sample(environment, is_healthy=False, latency_ms=900, observed_at=NOON + HALF_HOUR)]
    )
    assert rows() == [
        ("x", None, NOON, 3, 0, 9.0, 1.0, 5.0),
        ("x", None, NOON + HALF_HOUR, 1, 1, 0.0, None, None),
    ]


def test_latency_of_a_half_hour_that_began_with_failures_is_that_of_its_healthy_answers(
    environment,
):
    health.keep_results([sample(environment, is_healthy=False, latency_ms=900)])
    health.keep_results([sample(environment, latency_ms=7)])
    assert rows() == [("x", None, NOON, 2, 1, 7.0, 7.0, 7.0)]


def test_sql_check_belongs_to_the_target_and_http_check_to_the_environment(environment):
    HealthCheck.objects.create(environment=environment, name="web", address="http://127.0.0.1:9/")
    found = check_environment(environment)
    assert {r.check_name: r.target for r in found} == {
        "amounts": environment.targets.get(),
        "web": None,
    }
    assert [row[:2] + row[3:5] for row in rows()] == [
        ("amounts", environment.targets.get().pk, 1, 0),
        ("web", None, 1, 1),
    ]


def test_answers_to_a_run_are_no_samples(environment, operator):
    run = Run.objects.create(
        kind=RunKind.BACKUP,
        environment=environment,
        target=environment.targets.get(),
        requested_by=operator,
        idempotency_key="x",
    )
    check_target(environment.targets.get(), run=run, phase="before")
    assert (HealthResult.objects.count(), rows()) == (1, [])


@pytest.mark.django_db(transaction=True)
def test_sample_that_cannot_be_counted_is_not_kept(environment):
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE opsconsole_healthrollup ADD CONSTRAINT no CHECK (samples < 0)")
    try:
        with pytest.raises(Exception, match='violates check constraint "no"'):
            health.keep_results([sample(environment)])
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE opsconsole_healthrollup DROP CONSTRAINT no")
    assert not HealthResult.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_two_samplers_at_once_lose_no_sample(environment):
    both = threading.Barrier(2)

    def work(names: list[str]) -> None:
        try:
            for _time in range(25):
                both.wait()
                health.keep_results([sample(environment, check_name=name) for name in names])
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=[names]) for names in (["a", "b"], ["b", "a"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [(row[0], row[3], row[5]) for row in rows()] == [("a", 50, 50.0), ("b", 50, 50.0)]


@pytest.mark.django_db(transaction=True)
def test_sampler_waits_for_one_that_has_counted_the_same_half_hour(environment):
    began = threading.Event()

    def work() -> None:
        began.set()
        health.keep_results([sample(environment)])
        connection.close()

    other = threading.Thread(target=work)
    with transaction.atomic():
        health.keep_results([sample(environment)])
        other.start()
        began.wait(10)
        other.join(0.3)
        assert other.is_alive()
    other.join(10)
    assert [row[3] for row in rows()] == [2]


def test_day_is_told_from_half_hours(environment):
    now = half_hour_of(timezone.now())
    health.keep_results(
        [
            sample(environment, observed_at=now - 48 * HALF_HOUR, is_healthy=False),
            sample(environment, observed_at=now - 47 * HALF_HOUR, latency_ms=10),
            sample(environment, observed_at=now - 2 * HALF_HOUR, is_healthy=False, summary="first"),
            sample(
                environment, observed_at=now - 2 * HALF_HOUR + timedelta(minutes=3),
                is_healthy=False, summary="last",
            ),
            sample(environment, observed_at=now - HALF_HOUR, latency_ms=20),
            sample(environment, observed_at=now, check_name="y", latency_ms=30, summary="fine"),
        ]
    )  # fmt: skip
    day = health.health_days([environment])[environment.pk]
    assert day.bins == [0, *[None] * 44, 2, 0, 0]
    assert (day.uptime, day.mean_ms, day.now) == (60.0, 20.0, Health.HEALTHY)
    assert [(r.check_name, r.summary) for r in day.latest] == [("y", "fine"), ("x", "ok")]
    assert day.last_failure is not None
    assert day.last_failure.summary == "last"


def test_environment_is_unhealthy_when_the_newest_answer_of_one_check_is(environment):
    health.keep_results(
        [
            sample(environment),
            sample(environment, observed_at=NOON + timedelta(minutes=1), is_healthy=False),
            sample(environment, observed_at=NOON + timedelta(minutes=2), check_name="y"),
        ]
    )
    day = health.health_days([environment])[environment.pk]
    assert (day.now, len(day.latest)) == (Health.UNHEALTHY, 2)


def test_check_of_the_target_and_check_of_the_environment_with_one_name_are_two(environment):
    later = NOON + timedelta(minutes=1)
    health.keep_results([sample(environment, target=environment.targets.get())])
    health.keep_results([sample(environment, observed_at=later, is_healthy=False)])
    day = health.health_days([environment])[environment.pk]
    assert (day.now, len(day.latest), day.uptime) == (Health.UNHEALTHY, 2, 50.0)


def test_day_without_a_failure_has_no_last_one(environment):
    health.keep_results([sample(environment)])
    day = health.health_days([environment])[environment.pk]
    assert (day.now, day.uptime, day.last_failure) == (Health.HEALTHY, 100.0, None)


def test_environment_without_samples_is_unknown(environment):
    day = health.health_days([environment])[environment.pk]
    assert (day.now, day.bins, day.uptime, day.mean_ms) == (
        Health.UNKNOWN,
        [None] * 48,
        None,
        None,
    )


def fill(environment, samples: int) -> None:
    """A sample a second up to now; of the older half, each fifth is bad."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO opsconsole_healthresult (environment_id, check_name, observed_at,"
            " is_healthy, latency_ms, summary, answer, phase) SELECT %s, 'x',"
            " now() - n * interval '1 second', n %% 5 > 0 OR n <= %s, 1, 'ok', '{}', ''"
            " FROM generate_series(1, %s) n RETURNING id",
            [environment.pk, samples // 2, samples],
        )
        made = [row[0] for row in cursor.fetchall()]
    HealthRollup.objects.add(list(HealthResult.objects.filter(pk__in=made).only("pk")))
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE opsconsole_healthresult, opsconsole_healthrollup")


def test_day_of_many_samples_reads_those_of_one_half_hour_at_most(environment):
    fill(environment, 20_000)
    with CaptureQueriesContext(connection) as asked:
        day = health.health_days([environment])[environment.pk]
    assert day.uptime == 90.0
    assert day.last_failure is not None
    (of_samples,) = [q["sql"] for q in asked if '"opsconsole_healthresult"' in q["sql"]]
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {of_samples}")
        plan = cursor.fetchone()[0][0]["Plan"]
    assert rows_read(plan, "opsconsole_healthresult") <= HALF_HOUR.total_seconds()


def test_samples_are_forgotten_after_a_month_and_half_hours_after_a_year(environment):
    old = NOON - timedelta(days=40)
    health.keep_results(
        [sample(environment, observed_at=at) for at in (old, old - timedelta(days=340), NOON)]
    )
    assert health.forget_old_samples() == 2
    assert [row[2] for row in rows()] == [old, NOON]


@pytest.mark.django_db(transaction=True)
def test_upgrade_counts_the_samples_that_are_there(environment):
    check = HealthCheck.objects.get()
    HealthCheck.objects.create(environment=environment, name="web", address="http://127.0.0.1:9/")
    call_command("migrate", *BEFORE, verbosity=0)
    try:
        insert = (
            "INSERT INTO opsconsole_healthresult (environment_id, check_name, observed_at,"
            " is_healthy, latency_ms, summary, answer, phase) VALUES (%s, %s, %s, %s, %s, '', '{}', '')"
        )
        with connection.cursor() as cursor:
            cursor.executemany(
                insert,
                [
                    (environment.pk, check.name, NOON, True, 3),
                    (environment.pk, check.name, NOON + timedelta(minutes=1), False, 900),
                    (environment.pk, check.name, NOON + HALF_HOUR, True, 5),
                    (environment.pk, "web", NOON, False, 9),
                ],
            )
    finally:
        call_command("migrate", verbosity=0)
    assert rows() == [
        (check.name, environment.targets.get().pk, NOON, 2, 1, 3.0, 3.0, 3.0),
        (check.name, environment.targets.get().pk, NOON + HALF_HOUR, 1, 0, 5.0, 5.0, 5.0),
        ("web", None, NOON, 1, 1, 0.0, None, None),
    ]
    assert HealthResult.objects.filter(target=environment.targets.get()).count() == 3
