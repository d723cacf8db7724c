"""Scheduled backups and checks, and what the console warns of."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from django.utils import timezone

from backups_app import alarms
from backups_app.models import Backup, BackupPolicy, ScheduledOccurrence
from backups_app.services import policies
from opsconsole.choices import BackupReason, ProofLevel, RunKind, RunStatus
from opsconsole.models import Run
from tests.backups_app.conftest import execute

pytestmark = pytest.mark.usefixtures("transactional_db")


def due(environment, now: datetime) -> list[str]:
    return [run.kind for run in policies.keep_schedules(environment, now)]


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
    (alarm,) = alarms.alarms_of([environment])[environment.pk]
    assert "was missed: There is no backup to prove." in alarm


# -- alarms


def test_alarm_when_the_newest_proven_backup_is_too_old(backup, environment, set_policy):
    set_policy(alarm_hours=24)
    assert alarms.alarms_of([environment])[environment.pk] == []
    Backup.objects.update(taken_at=timezone.now() - timedelta(hours=30))
    assert alarms.alarms_of([environment])[environment.pk] == [
        "The newest proven backup is 30 h old; the policy allows 24 h."
    ]
    Backup.objects.update(proof=ProofLevel.CHECKSUM)
    assert "No backup is proven" in alarms.alarms_of([environment])[environment.pk][0]


def test_alarm_when_a_size_departs_from_the_recent_median(old_backups, backup, environment):
    assert alarms.alarms_of([environment])[environment.pk] == []
    Backup.objects.filter(pk=backup.pk).update(size_bytes=backup.size_bytes // 3)
    assert "the last ones had about" in alarms.alarms_of([environment])[environment.pk][0]


def test_alarms_take_as_many_queries_for_three_environments_as_for_one(
    make_environment, django_assert_num_queries
):
    one = [make_environment("staging")]
    three = [*one, make_environment("a", position=2), make_environment("b", position=3)]
    for group in (one, three):
        with django_assert_num_queries(4):
            alarms.alarms_of(group)
