"""The scheduler: what it sends again and again, and what a broker that is away costs it."""

from __future__ import annotations

import pytest
from celery import current_app

from backups_app.parameters import BackupParameters
from opsconsole.clock import in_seconds
from opsconsole.environments.services import TEST_CONNECTION
from opsconsole.events.models import AuditEvent
from opsconsole.project.management.commands.scheduler import Command
from opsconsole.runs import services as runs
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.models import Run
from opsconsole.runs.registry import PERIODIC
from opsconsole.work.models import WorkItem
from opsconsole.work.services import DO_WORK
from tests.runs.cutting import cut_once

pytestmark = pytest.mark.django_db


@pytest.fixture
def asked(monkeypatch) -> list[tuple[str, int]]:
    """The tasks that a broker was asked to take, each with its object."""
    made: list[tuple[str, int]] = []
    monkeypatch.setattr(
        current_app, "send_task", lambda task, args, **_o: made.append((task, *args))
    )
    return made


def refuse(asked: list[tuple[str, int]]) -> object:
    def send_task(task: str, args: list[int], **_options: object) -> None:
        asked.append((task, *args))
        raise ConnectionError("nobody listens")

    return send_task


def test_broker_that_is_away_is_asked_once_a_tick_and_gets_all_when_it_is_back(
    environment, asked, monkeypatch
):
    item = WorkItem.objects.create(
        work=TEST_CONNECTION, key="k", arguments={"target": environment.targets.get().pk}
    )
    scheduler = Command()
    with monkeypatch.context() as away:
        away.setattr(current_app, "send_task", refuse(asked))
        for _tick in range(3):
            scheduler._tick()
    assert asked == [(PERIODIC[0].task, environment.pk)] * 3

    del asked[:]
    for _tick in range(2):
        scheduler._tick()
    hints = [(periodic.task, periodic.about(environment.targets.get())) for periodic in PERIODIC]
    assert asked == [*hints, (DO_WORK, item.pk)]


@pytest.mark.django_db(transaction=True)
def test_cut_while_a_lost_run_is_recorded_ends_neither_the_scheduler_nor_the_search(
    environment, operator
):
    run = runs.request_run(
        actor=operator,
        parameters=BackupParameters(),
        target=environment.targets.get(),
        idempotency_key="k",
    )
    runs.claim_run(run.pk, "w")
    Run.objects.filter(pk=run.pk).update(lease_expires_at=in_seconds(-3600))
    scheduler, found = Command(), AuditEvent.objects.filter(run=run, action="run.lost")
    with cut_once("INSERT", "while it is written", "opsconsole_auditevent"):
        for _tick in range(2):
            scheduler.look()
    run.refresh_from_db()
    assert (run.status, found.count()) == (RunStatus.LOST, 1)
