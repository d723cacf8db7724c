"""What the dashboard says needs somebody, and that it goes when its cause does."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django.utils.html import strip_tags

from backups_app.choices import ProofLevel
from backups_app.models import Backup, BackupPolicy, Storage
from opsconsole.access.models import Membership, User
from opsconsole.environments.models import Application, Environment, Target
from opsconsole.health import services as health
from opsconsole.health.models import HealthCheck, HealthResult
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.models import Run
from opsconsole.runs.workers import Worker

pytestmark = pytest.mark.django_db
INIT, ADD = "20250101000000_init", "20250201000000_add"


@pytest.fixture
def place() -> Callable[..., Environment]:
    """`place("staging", init="applied")` makes a healthy, backed up, unprotected environment in
    which a worker has read migrations so."""

    def make(slug: str, position: int = 1, *, protected: bool = False, **states) -> Environment:
        shop, _ = Application.objects.get_or_create(slug="shop", defaults={"name": "Shop"})
        made = Environment.objects.create(
            application=shop,
            slug=slug,
            name=slug.capitalize(),
            position=position,
            is_protected=protected,
        )
        target = Target.objects.create(environment=made, dsn_reference="env:NOWHERE")
        HealthCheck.objects.create(environment=made, name="works", address="https://shop.test/")
        sample(made)
        if protected:
            prove(made)
            schedule(made)
        read(target, states or {INIT: "applied"})
        return made

    return make


def read(target: Target, states: dict[str, str], **data) -> None:
    migrations = [{"name": name, "state": state} for name, state in states.items()]
    target.states.create(data={"migrations": migrations, "refusals": [], **data})


def sample(where: Environment, *, healthy: bool = True, at: datetime | None = None) -> None:
    answer = HealthResult(
        environment=where,
        check_name="works",
        is_healthy=healthy,
        latency_ms=1,
        summary="answers 200" if healthy else "answers 500",
        observed_at=at or timezone.now(),
    )
    health.keep_results([answer])


def prove(where: Environment, *, hours_ago: int = 1) -> Backup:
    return Backup.objects.create(
        environment=where,
        target=where.targets.get(),
        run=ran(where, RunStatus.SUCCEEDED, "backup"),
        reason="manual",
        key=f"{where.slug}-{hours_ago}",
        size_bytes=1000,
        raw_bytes=1000,
        manifest={},
        proof=ProofLevel.CONTENT,
        taken_at=timezone.now() - timedelta(hours=hours_ago),
    )


def schedule(where: Environment, **fields) -> BackupPolicy:
    return BackupPolicy.objects.create(
        environment=where,
        storage=Storage.objects.builtin(),
        **({"backup_cron": "0 3 * * *"} | fields),
    )


def ran(where: Environment, status: RunStatus, kind: str = "restore", **fields) -> Run:
    number = Run.objects.count()
    return Run.objects.create(
        operation=kind,
        kind=kind,
        changes_target=kind in {"migrate", "restore"},
        status=status,
        environment=where,
        target=where.targets.get(),
        idempotency_key=f"run {number}",
        **({"summary": "It stopped.", "finished_at": timezone.now()} | fields),
    )


def text_of(html: str) -> str:
    return " ".join(strip_tags(html).split())


def lines(client: Client) -> list[str]:
    """Each line of "Needs you": its text, and the address of its button."""
    page = client.get("/").content.decode()
    card = re.search(r'aria-labelledby="todo".*?</section>', page, re.DOTALL)
    items = card[0].split("<li>")[1:] if card else []
    # The first address of an item is its icon's.
    address = re.compile(r'(?:href|action)="(/[^"#]*)')
    return [f"{text_of(item)} -> {address.findall(item)[-1]}" for item in items]


def buttons(page: str) -> list[tuple[str, str]]:
    """Look and text of each button on the path that leads to a migration."""
    path = page[page.index('class="path"') :]
    found = re.findall(r'<a class="(button[ \w]*)" href="[^"]*/migrate">(.*?)</a>', path)
    return [(look, text_of(text)) for look, text in found]


@pytest.fixture
def client(as_role) -> Client:
    return as_role("admin")


def test_nothing_that_needs_somebody_is_one_calm_line(client, place):
    place("staging")
    assert lines(client) == []
    assert "Nothing needs you." not in client.get("/").content.decode()  # No worker can know.
    Worker.objects.create(name="w", host="h", pid=1, last_seen_at=timezone.now())
    assert "Nothing needs you." in client.get("/").content.decode()


def test_run_that_waits_for_a_decision_is_said_once_and_goes_with_it(client, place):
    where = place("staging", **{INIT: "failed"})
    run = ran(where, RunStatus.NEEDS_ATTENTION, "migrate")
    (line,) = lines(client)
    assert f"{run} needs a decision: " in line
    assert line.endswith(f"Shop staging: It stopped. Decide -> {run.get_absolute_url()}")
    Run.objects.update(status=RunStatus.ROLLED_BACK)
    read(where.targets.get(), {INIT: "applied"})
    assert lines(client) == []


def test_unhealthy_application_is_said_with_the_answer_and_since_when(client, place):
    where = place("staging")
    began = timezone.now() - timedelta(hours=3)
    sample(where, at=began - timedelta(minutes=1))
    HealthResult.objects.filter(observed_at__gt=began).delete()
    for minutes in (0, 1, 170):
        sample(where, healthy=False, at=began + timedelta(minutes=minutes))
    (line,) = lines(client)
    assert line.startswith(
        "The application is unhealthy. First seen 3 hours ago. Shop staging: works:"
    )
    assert "answers 500 View health" in line
    sample(where)
    assert lines(client) == []


def test_check_that_never_was_healthy_is_unhealthy_since_its_first_answer(client, place):
    where = place("staging")
    HealthResult.objects.all().delete()
    where.health_rollups.all().delete()
    for hours in (5, 1):
        sample(where, healthy=False, at=timezone.now() - timedelta(hours=hours))
    assert "First seen 5 hours ago." in lines(client)[0]


def test_last_change_that_failed_is_said_until_another_one_succeeds(client, place):
    where = place("staging")
    run = ran(where, RunStatus.FAILED)
    ran(where, RunStatus.FAILED, "backup")
    (line,) = lines(client)
    assert line.startswith(f"{run} failed: ")
    assert line.endswith(f"View run -> {run.get_absolute_url()}")
    ran(where, RunStatus.SUCCEEDED)
    assert lines(client) == []


def test_change_that_failed_weeks_ago_needs_nobody(client, place):
    ran(place("staging"), RunStatus.FAILED, finished_at=timezone.now() - timedelta(days=8))
    assert lines(client) == []


def test_database_that_cannot_be_read_is_said_since_the_first_time(client, place):
    where = place("staging")
    target = where.targets.get()
    target.states.update(observed_at=timezone.now() - timedelta(hours=3))
    for hours in (2, 1):
        at = timezone.now() - timedelta(hours=hours)
        target.states.create(error="connection refused", observed_at=at)
    (line,) = lines(client)
    assert line == (
        "The database cannot be read. First seen 2 hours ago. Shop staging: connection refused "
        f"Test connection -> /settings/connections/{where.pk}"
    )
    read(target, {INIT: "applied"})
    assert lines(client) == []


def test_migrations_in_trouble_are_one_line_with_their_failed_run(client, place):
    where = place("staging", **{INIT: "failed", ADD: "pending"})
    ran(where, RunStatus.FAILED, "migrate")
    (line,) = lines(client)
    assert line == (
        f"1 migration is in trouble. Shop staging: {INIT} (failed) "
        f"Resolve -> {where.get_absolute_url()}"
    )
    read(where.targets.get(), {INIT: "applied"})
    ran(where, RunStatus.SUCCEEDED, "migrate")
    assert lines(client) == []


def test_protected_environment_without_a_proven_backup_asks_for_one(client, place):
    where = place("live", protected=True)
    assert lines(client) == []
    Backup.objects.update(proof=ProofLevel.NONE)
    assert lines(client)[0].startswith("No backup is proven yet.")
    Environment.objects.update(created_at=timezone.now() - timedelta(hours=49))
    (line,) = lines(client)
    assert line.startswith("No backup is proven; the policy asks for one every 48 h.")
    assert line.endswith(f"Back up now -> {where.get_absolute_url()}/backup")
    BackupPolicy.objects.update(alarm_hours=None)
    assert lines(client)[0].startswith("No backup is proven yet.")
    prove(where, hours_ago=2)
    assert lines(client) == []


def test_proven_backup_that_is_older_than_the_policy_allows_is_said(client, place):
    where = place("staging")
    assert lines(client) == []
    schedule(where, alarm_hours=24)
    prove(where, hours_ago=30)
    assert lines(client)[0].startswith(
        "The newest proven backup is 30 h old; the policy allows 24 h."
    )
    prove(where, hours_ago=3)
    assert lines(client) == []


def test_protected_environment_without_a_schedule_asks_who_may_set_one(client, as_role, place):
    where = place("live", protected=True)
    BackupPolicy.objects.update(backup_cron="")
    assert lines(client) == [
        "Backups are not scheduled. Shop live Set a schedule"
        f" -> {where.get_absolute_url()}/backup-policy"
    ]
    assert lines(as_role("operator")) == []
    Environment.objects.update(is_protected=False)
    assert lines(client) == []


def test_environment_without_a_health_check_asks_who_may_add_one(client, as_role, place):
    where = place("staging")
    HealthCheck.objects.update(is_enabled=False)
    (line,) = lines(client)
    assert line.startswith("No health check is set. Shop staging:")
    assert line.endswith(f"Add a health check -> /settings/environments/{where.pk}/checks/add")
    assert lines(as_role("operator")) == []
    HealthCheck.objects.update(is_enabled=True)
    assert lines(client) == []


def test_database_without_a_history_needs_a_baseline(client, place):
    where = place("staging")
    missing = {"tool": "Prisma", "table": "public.t", "command": "npx"}
    read(where.targets.get(), {INIT: "pending"}, baseline=missing)
    (line,) = lines(client)
    assert line.startswith(
        "The database needs a baseline. Shop staging: It has tables, such as public.t"
    )
    read(where.targets.get(), {INIT: "applied"})
    assert lines(client) == []


def both(place, before: str = "applied") -> tuple[Environment, Environment]:
    """Staging and production: the second one pending here, in the given state there."""
    staging = place("staging", 1, **{INIT: "applied", ADD: before})
    return staging, place("live", 2, protected=True, **{INIT: "applied", ADD: "pending"})


def test_migration_that_went_well_in_the_stage_before_waits_for_the_next_one(
    client, as_role, place
):
    _staging, live = both(place)
    assert lines(as_role("operator")) == [
        "1 migration waits for live. Shop live: It is applied in staging, which is healthy."
        f" Migrate live: 1 pending -> {live.get_absolute_url()}/migrate"
    ]
    assert lines(as_role("reviewer")) == []  # It is not theirs to start.
    read(live.targets.get(), {INIT: "applied", ADD: "applied"})
    assert lines(client) == []


@pytest.mark.parametrize("why", ["not applied", "unhealthy", "refused", "moving"])
def test_migration_does_not_wait_for_a_stage_that_it_may_not_go_to_yet(as_role, place, why):
    staging, live = both(place, "pending" if why == "not applied" else "applied")
    if why == "unhealthy":
        sample(staging, healthy=False)
    if why == "refused":
        read(live.targets.get(), {INIT: "applied", ADD: "pending"}, refusals=["No."])
    if why == "moving":
        ran(live, RunStatus.QUEUED, "migrate", finished_at=None)
    assert not [line for line in lines(as_role("operator")) if "waits for" in line]


def test_worst_comes_first_and_protected_before_others(client, place):
    staging, live = both(place)
    sample(live, healthy=False)
    sample(staging, healthy=False)
    Backup.objects.update(proof=ProofLevel.NONE)
    other = place("test", 3)
    run = ran(other, RunStatus.NEEDS_ATTENTION)
    assert [re.split(r"[.:;] ", line)[0] for line in lines(client)] == [
        f"{run} needs a decision",
        "The application is unhealthy",
        "The application is unhealthy",
        "No backup is proven yet",
    ]
    assert "Shop live" in lines(client)[1]


def test_only_what_the_person_may_see_is_said(client, place):
    staging, live = both(place)
    for where in (staging, live):
        ran(where, RunStatus.FAILED)
    user = User.objects.create_user("half")
    Membership.objects.create(user=user, role="operator", environment=staging)
    client.force_login(user)
    assert [("Shop staging" in line, "live" in line) for line in lines(client)] == [(True, False)]


def test_next_change_of_a_path_is_its_one_primary_button(as_role, place):
    place("staging", 1, **{ADD: "pending"})
    place("live", 2, protected=True, **{ADD: "pending"})
    page = as_role("operator").get("/").content.decode()
    assert buttons(page) == [
        ("button primary", "Migrate staging: 1 pending"),
        ("button", "Migrate live: 1 pending"),
    ]
    assert "/migrate" not in as_role("viewer").get("/").content.decode()


@pytest.mark.parametrize("why", ["unhealthy", "undecided", "moving", "unreadable", "in trouble"])
def test_no_change_is_urged_behind_a_stage_that_is_not_settled(as_role, place, why):
    staging, _live = both(place)
    operator = as_role("operator")
    assert ("button primary", "Migrate live: 1 pending") in buttons(
        operator.get("/").content.decode()
    )
    if why == "unhealthy":
        sample(staging, healthy=False)
    if why == "undecided":
        ran(staging, RunStatus.NEEDS_ATTENTION, "migrate")
    if why == "moving":
        ran(staging, RunStatus.RUNNING, "migrate", finished_at=None)
    if why == "unreadable":
        staging.targets.get().states.create(error="No answer.")
    if why == "in trouble":
        read(staging.targets.get(), {INIT: "applied", ADD: "failed"})
    assert buttons(operator.get("/").content.decode()) == [("button", "Migrate live: 1 pending")]


def test_last_change_is_no_backup(as_role, place):
    where = place("staging")
    change = ran(where, RunStatus.SUCCEEDED, "migrate")
    ran(where, RunStatus.SUCCEEDED, "prune")
    page = as_role("viewer").get("/").content.decode()
    facts = re.search(r'<dl class="facts">.*?</dl>', page, re.DOTALL)
    assert facts is not None
    assert "Last change migrate, succeeded" in text_of(facts[0])
    assert f'href="{change.get_absolute_url()}"' in facts[0]


def card(client: Client, heading: str) -> str:
    """The text of the card with that id of its heading."""
    page = client.get("/").content.decode()
    found = re.search(rf'aria-labelledby="{heading}".*?</section>', page, re.DOTALL)
    return text_of(found[0].partition(">")[2]) if found else ""


def test_six_environments_are_rows_of_a_table_and_five_are_cards(as_role, place):
    client = as_role("operator")
    for number in range(5):
        place(f"e{number}", number, **{INIT: "pending"} if number == 4 else {})
    page = client.get("/").content.decode()
    assert (page.count('<section class="stage'), "<table" in page) == (5, False)
    live = place("live", 6, protected=True)
    change = ran(live, RunStatus.SUCCEEDED, "migrate")
    page = client.get("/").content.decode()
    assert (page.count('<section class="stage'), page.count("<tr")) == (0, 7)
    rows = [text_of(row) for row in page.split("<tr")[1:]]
    assert "Shop E4 Healthy 1 pending none yet none proven yet Migrate e4: 1 pending" in rows[5]
    assert "Shop Live Protected Healthy Up to date migrate, succeeded" in rows[6]
    assert f'href="{change.get_absolute_url()}"' in page


def test_run_at_work_is_shown_with_its_step_and_progress_until_it_ends(client, place):
    where = place("staging")
    run = ran(where, RunStatus.RUNNING, "backup", finished_at=None)
    run.steps.create(position=1, name="preflight", status="succeeded")
    run.steps.create(position=2, name="backup", status="running", progress=41.4)
    assert "Back up staging Shop backup 41 %" in card(client, "lately")
    Run.objects.update(status=RunStatus.FAILED, finished_at=timezone.now())
    run.steps.update(status="failed")
    assert "Back up staging: failed Shop now" in card(client, "lately")


def test_last_eight_runs_that_ended_are_shown_with_their_outcome(client, place):
    where = place("staging")
    for number in range(9):
        ran(where, RunStatus.SUCCEEDED, "verify", reason=str(number))
    ran(where, RunStatus.SUCCEEDED, "migrate", result={"applied": [INIT, ADD]})
    ran(where, RunStatus.NEEDS_ATTENTION, "restore")
    said = card(client, "lately")
    assert said.count("Verify staging: succeeded") == 6
    assert "Migrate staging: succeeded, 2 applied" in said
    assert "Restore staging: needs a decision" in said


def test_run_of_another_environment_is_shown_to_nobody_without_a_role_there(client, place):
    staging, live = both(place)
    ran(live, RunStatus.SUCCEEDED)
    ran(live, RunStatus.RUNNING)
    user = User.objects.create_user("half")
    Membership.objects.create(user=user, role="operator", environment=staging)
    client.force_login(user)
    assert "No run yet." in card(client, "lately")
    assert "Nothing is scheduled" in card(client, "next")


def test_what_is_scheduled_within_seven_days_comes_next_the_soonest_first(client, place):
    where = place("staging")
    assert card(client, "next") == "Next 7 days Nothing is scheduled in the next 7 days."
    soon = timezone.now() + timedelta(hours=2)
    later = timezone.now() + timedelta(days=30)
    policy = schedule(
        where, backup_cron=f"0 0 {later.day} {later.month} *", verify_cron=f"{soon:%M %H * * *}"
    )
    prove(where)
    assert card(client, "next") == f"Next 7 days Prove a backup again Shop staging {soon:%a %H:%M}"
    policy.backup_cron = f"{soon - timedelta(hours=1):%M %H * * *}"
    policy.save()
    said = card(client, "next")
    assert "Back up Shop staging" in said
    assert said.index("Back up") < said.index("Prove")
    assert f"Next {soon - timedelta(hours=1):%a %H:%M} Back up" in text_of(
        client.get("/").content.decode()
    )


def test_backups_about_to_be_deleted_come_next_unless_somebody_holds_them(client, place):
    where = place("staging")
    for hours in (1, 2):
        prove(where, hours_ago=hours)
    Backup.objects.update(expires_at=timezone.now() + timedelta(days=2))
    assert "Delete 2 expired backups, if nobody holds them Shop staging" in card(client, "next")
    Backup.objects.update(held_at=timezone.now())
    assert "Nothing is scheduled" in card(client, "next")


def test_home_takes_as_many_queries_for_three_applications_as_for_one(client, place):
    def fill(name: str) -> None:
        for number, state in enumerate(("applied", "failed", "pending")):
            where = place(f"{name}{number}", number, protected=number == 2, **{INIT: state})
            sample(where, healthy=False)
            prove(where, hours_ago=50)
            Backup.objects.update(expires_at=timezone.now() + timedelta(days=2))
            where.targets.get().states.create(error="no" if number == 1 else "", data={})
            ran(where, RunStatus.NEEDS_ATTENTION if number else RunStatus.RUNNING)

    fill("a")
    client.get("/")
    with CaptureQueriesContext(connection) as few:
        client.get("/")
    for name in ("b", "c"):
        shop = Application.objects.get(slug="shop")
        Application.objects.filter(pk=shop.pk).update(slug=f"before-{name}")
        fill(name)
    assert Application.objects.count() == 3
    with CaptureQueriesContext(connection) as many:
        client.get("/")
    assert len(many) == len(few)


def test_number_with_its_kind_leads_there(client, place):
    where = place("staging")
    for hours in (1, 2, 3):
        backup = prove(where, hours_ago=hours)
    for text, page in (
        (f"run {backup.run_id}", backup.run),
        (f"Backup {backup.pk}", backup),
        ("shop STAGING", where),
    ):
        answer = client.get("/find", {"q": text})
        assert answer.headers.get("location") == page.get_absolute_url(), text
    assert "Nothing is named" in client.get("/find", {"q": "run 999999"}).content.decode()


def test_kind_before_a_word_finds_that_kind_only(client, place):
    where = place("init")
    read(where.targets.get(), {INIT: "applied"})
    both_kinds = client.get("/find", {"q": "init"}).content.decode()
    assert (INIT in both_kinds, "<b>Shop init</b>" in both_kinds) == (True, True)
    one_kind = client.get("/find", {"q": "migration init"}).content.decode()
    assert (INIT in one_kind, "<b>Shop init</b>" in one_kind) == (True, False)


def test_people_and_runs_are_found_by_who_may_see_them(client, as_role, place):
    staging, live = both(place)
    elsewhere = ran(live, RunStatus.SUCCEEDED)
    user = User.objects.create_user("quentin")
    Membership.objects.create(user=user, role="admin", environment=staging)
    assert "<b>quentin</b>" in client.get("/find", {"q": "quen"}).content.decode()
    assert "Nothing is named" in as_role("operator").get("/find", {"q": "quen"}).content.decode()
    User.objects.create_user("querida")
    client.force_login(user)
    page = client.get("/find", {"q": "que"}).content.decode()
    assert ("<b>quentin</b>" in page, "querida" in page) == (True, False)
    for text in (elsewhere.pk, f"run {elsewhere.pk}"):
        # Its number may be part of a migration's name.
        found = client.get("/find", {"q": text})
        assert found.status_code == 200
        assert f'href="{elsewhere.get_absolute_url()}"' not in found.content.decode()
