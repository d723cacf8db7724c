"""What the page of a run says first: how it ended, why, what was measured, what can be done next."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from django.urls import reverse

from opsconsole.runs.choices import RunStatus
from opsconsole.runs.models import Run, Step, summed
from opsconsole.runs.outcome import ended_outcome, moving_outcome, usual_seconds
from opsconsole.runs.panels import NextAct
from opsconsole.sentences import say

BEGAN = datetime(2026, 11, 26, 14, tzinfo=UTC)


@dataclass
class Answer:
    is_healthy: bool
    second: float = 0

    @property
    def observed_at(self) -> datetime:
        return BEGAN + timedelta(seconds=self.second)


@pytest.fixture
def run(environment) -> Run:
    return Run(
        operation="migrate",
        kind="migrate",
        environment=environment,
        target=environment.targets.get(),
        status=RunStatus.FAILED,
    )


def test_failed_run_says_its_step_its_cause_and_what_it_left(run):
    said = summed(say("%(why)s. %(state)s", why="The disk is full", state=say("Nothing changed.")))
    run.summary, run.summary_parts = said["summary"], said["summary_parts"]
    outcome = ended_outcome(run, [Step(name="backup", status="failed")], [], [])
    assert outcome.title == "Migrate staging failed at the step backup"
    assert (outcome.cause, outcome.state) == ("The disk is full.", "Nothing changed.")
    assert outcome.told == ""


def test_summary_of_one_part_is_told_as_a_whole(run):
    run.summary = "Cancelled before it started. Nothing was changed."
    outcome = ended_outcome(run, [], [], [])
    assert (outcome.told, outcome.cause) == (run.summary, "")


@pytest.mark.parametrize(
    ("down_ms", "samples", "said"),
    [
        (0, 12, ["The database always answered."]),
        (40, 12, ["The database did not answer for 40 ms."]),
        (0, 0, []),
    ],
)
def test_only_what_was_measured_of_the_database_is_said(run, down_ms, samples, said):
    assert ended_outcome(run, [], [], []).measured == []
    run.result = {"availability": {"samples": samples, "down_ms": down_ms}}
    assert ended_outcome(run, [], [], []).measured == said


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([Answer(True)], ["The health check was healthy."]),
        ([Answer(True)] * 2, ["All 2 answers of the health checks were healthy."]),
        (
            [Answer(False, 1), Answer(False, 3.4), Answer(True, 5)],
            [
                "2 of 3 answers of the health checks were unhealthy.",
                "The last unhealthy answer came 2.4 s after the first.",
            ],
        ),
    ],
)
def test_unhealthy_answers_are_counted_and_timed(run, answers, said):
    assert ended_outcome(run, [], answers, []).measured == said


def test_act_that_comes_first_leads(run):
    acts = [NextAct("Again", "/a"), NextAct("Open", "/o", is_first=True)]
    assert [act.title for act in ended_outcome(run, [], [], acts).acts] == ["Open", "Again"]


def test_moving_run_says_its_present_step(run):
    run.status = RunStatus.RUNNING
    steps = [Step(name="backup", status="succeeded"), Step(name="verify", status="running")]
    assert moving_outcome(run, steps).title == "Migrate staging: at the step verify"


def test_usual_duration_is_the_median_of_three_or_more_that_succeeded_there(run):
    def ended(seconds: int, status: str = "succeeded") -> None:
        Run.objects.create(
            operation="migrate",
            kind="migrate",
            environment=run.environment,
            target=run.target,
            status=status,
            started_at=BEGAN,
            finished_at=BEGAN + timedelta(seconds=seconds),
            idempotency_key=f"{status}{seconds}",
        )

    run.idempotency_key = "own"
    run.save()
    ended(10)
    ended(30)
    ended(9000, "failed")
    assert usual_seconds(run) is None
    ended(41)
    assert usual_seconds(run) == 30


def test_succeeded_migration_leads_to_the_next_environment(
    as_role, migrate, make_environment, folder
):
    from tests.worker import observe_target

    folder.add("20250201000000_add", "ALTER TABLE users ADD COLUMN x int;\n")
    later = make_environment("production", position=2)
    run = migrate()
    observe_target(later.targets.get())
    link = reverse("migrate", args=[later.application.slug, later.slug])
    page = as_role("operator").get(run.get_absolute_url()).content.decode()
    assert "1 migration was applied to staging" in page
    assert f'<a class="button primary" href="{link}">Migrate production: same 1</a>' in page
    assert link not in as_role("viewer").get(run.get_absolute_url()).content.decode()


def test_failed_migration_is_opened_first(as_role, migrate, folder):
    name = "20250201000000_add"
    folder.add(name, "ALTER TABLE nowhere ADD COLUMN x int;\n")
    run = migrate()
    page = as_role("operator").get(run.get_absolute_url()).content.decode()
    assert "Migrate staging failed at the step migrate" in page
    url = f"{run.environment.get_absolute_url()}/migrations/{name}"
    assert f'<a class="button primary" href="{url}">Open migration</a>' in page
