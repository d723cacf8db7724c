"""Scheduled backups and checks, and what the console warns of."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
from django.db import OperationalError, connection, connections
from django.utils import timezone

from backups_app import alarms
from backups_app.choices import BackupReason, ProofLevel
from backups_app.models import Backup, BackupPolicy, ScheduledOccurrence
from backups_app.services import policies, request_backup
from opsconsole.exceptions import Refused
from opsconsole.runs.choices import RunKind, RunStatus
from opsconsole.runs.models import Run
from tests.backups_app.conftest import execute

pytestmark = pytest.mark.usefixtures("transactional_db")


def due(environment, now: datetime) -> list[str]:
    return [run.kind for run in policies.keep_schedules(environment.targets.get(), now)]


def test_schedule_makes_one_run_per_moment(environment, set_policy, backup):
    set_policy(backup_cron="0 3 * * *", verify_cron="0 4 * * *", time_zone="Europe/Warsaw")
    tomorrow = timezone.now() + timedelta(days=1)
    three = tomorrow.replace(hour=1, minute=0, second=0) + timedelta(hours=1)
    BackupPolicy.objects.update(changed_at=three - timedelta(hours=6))

    assert due(environment, three) == ["backup"]
    assert due(environment, three) == []
    assert due(environment, three + timedelta(hours=1)) == ["verify"]
    run = Run.objects.filter(kind=RunKind.BACKUP).latest("id")
    assert (run.requested_by, run.parameters["reason"]) == (None, BackupReason.SCHEDULED)
    assert execute(run).status == RunStatus.SUCCEEDED
    assert Run.objects.get(kind=RunKind.VERIFY).asked_by == "the schedule"


def test_schedule_missed_while_the_console_was_away_is_made_up_for_once(environment, set_policy):
    set_policy(backup_cron="0 * * * *")
    now = timezone.now().replace(minute=30) + timedelta(days=3)
    assert due(environment, now) == ["backup"]
    assert ScheduledOccurrence.objects.count() == 1


def test_schedule_does_not_run_for_the_time_before_it_was_set(environment, set_policy):
    set_policy(backup_cron="* * * * *")
    assert due(environment, timezone.now() - timedelta(minutes=2)) == []


def test_refused_schedule_is_kept_as_missed_and_alarms(environment, set_policy):
    set_policy(verify_cron="* * * * *", alarm_hours=None)
    assert due(environment, timezone.now() + timedelta(minutes=2)) == []
    assert ScheduledOccurrence.objects.get().refusal == "There is no backup to prove."
    (alarm,) = alarms.alarms_of([environment.targets.get()])[environment.targets.get().pk]
    assert "was missed: There is no backup to prove." in alarm


@pytest.mark.parametrize("dies", [OperationalError("gone"), SystemExit("killed")])
@pytest.mark.parametrize("is_requested", [False, True])
def test_schedule_that_is_cut_off_around_the_request_leaves_nothing_and_is_tried_again(
    environment, set_policy, monkeypatch, dies, is_requested
):
    set_policy(backup_cron="0 * * * *")
    now = timezone.now().replace(minute=30) + timedelta(days=3)

    def request_and_die(**asked) -> None:
        if is_requested:
            request_backup(**asked)
        raise dies

    with monkeypatch.context() as patch:
        patch.setattr(policies, "request_backup", request_and_die)
        with pytest.raises(type(dies)):
            due(environment, now)
    assert (ScheduledOccurrence.objects.count(), Run.objects.count()) == (0, 0)
    assert due(environment, now) == ["backup"]
    assert due(environment, now) == []
    assert ScheduledOccurrence.objects.get().run == Run.objects.get()


def test_schedule_whose_request_cannot_be_audited_is_tried_again(environment, set_policy):
    set_policy(backup_cron="0 * * * *")
    now = timezone.now().replace(minute=30) + timedelta(days=3)
    nope = "ALTER TABLE opsconsole_auditevent {} CONSTRAINT nope"
    with connection.cursor() as cursor:
        cursor.execute(nope.format("ADD") + " CHECK (false) NOT VALID")
        try:
            with pytest.raises(Refused, match="the audit trail cannot record it"):
                due(environment, now)
        finally:
            cursor.execute(nope.format("DROP"))
    assert (ScheduledOccurrence.objects.count(), Run.objects.count()) == (0, 0)
    assert due(environment, now) == ["backup"]


def test_two_schedulers_at_once_make_one_run_of_a_moment(environment, set_policy):
    set_policy(backup_cron="0 * * * *")
    now = timezone.now().replace(minute=30) + timedelta(days=3)

    def look(_: int) -> list[str]:
        try:
            return due(environment, now)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(look, range(6)))
    assert sorted(made) == [[]] * 5 + [["backup"]]
    assert ScheduledOccurrence.objects.get().run == Run.objects.get()


def test_schedule_that_meets_a_running_backup_is_kept_as_missed(environment, set_policy, operator):
    request_backup(actor=operator, target=environment.targets.get(), idempotency_key="a" * 32)
    set_policy(backup_cron="0 * * * *")
    now = timezone.now().replace(minute=30) + timedelta(days=3)
    assert due(environment, now) == []
    missed = ScheduledOccurrence.objects.get()
    assert (missed.run, "one run at a time" in missed.refusal) == (None, True)
    assert due(environment, now) == []


# -- alarms


def test_alarm_when_the_newest_proven_backup_is_too_old(backup, environment, set_policy):
    set_policy(alarm_hours=24)
    assert alarms.alarms_of([environment.targets.get()])[environment.targets.get().pk] == []
    Backup.objects.update(taken_at=timezone.now() - timedelta(hours=30))
    assert alarms.alarms_of([environment.targets.get()])[environment.targets.get().pk] == [
        "The newest proven backup is 30 h old; the policy allows 24 h."
    ]
    Backup.objects.update(proof=ProofLevel.CHECKSUM)
    # A new environment has as long for its first one as the policy allows.
    assert alarms.alarms_of([environment.targets.get()])[environment.targets.get().pk] == []
    environment.created_at = timezone.now() - timedelta(hours=25)
    assert (
        "No backup is proven"
        in alarms.alarms_of([environment.targets.get()])[environment.targets.get().pk][0]
    )


def test_alarm_when_a_size_departs_from_the_recent_median(old_backups, backup, environment):
    assert alarms.alarms_of([environment.targets.get()])[environment.targets.get().pk] == []
    Backup.objects.filter(pk=backup.pk).update(size_bytes=backup.size_bytes // 3)
    assert (
        "the last ones had about"
        in alarms.alarms_of([environment.targets.get()])[environment.targets.get().pk][0]
    )


def test_alarms_take_as_many_queries_for_three_environments_as_for_one(
    make_environment, django_assert_num_queries
):
    one = [make_environment("staging")]
    three = [*one, make_environment("a", position=2), make_environment("b", position=3)]
    for group in (one, three):
        targets = [environment.targets.select_related("environment").get() for environment in group]
        with django_assert_num_queries(4):
            alarms.alarms_of(targets)
