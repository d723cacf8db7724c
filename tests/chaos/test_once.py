"""Double clicks, duplicate messages and two people: one run each time."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.chaos.console import STAGING, Console, table_lock, wait_for

pytestmark = pytest.mark.chaos
PATH = "/applications/sales-commission/staging/migrate"


def form(console: Console, name: str) -> tuple:
    """A signed-in client and the confirm form's fields, as the page gave them."""
    client = console.sign_in(name)

    def fields() -> dict[str, str]:
        page = client.get(PATH, headers={}).text
        found = dict(re.findall(r'name="(plan|key)" value="([0-9a-f]+)"', page))
        return found if len(found) == 2 else {}

    return client, wait_for(fields, "the form has no plan or key")


def statuses(console: Console) -> list[tuple]:
    with console.database() as connection:
        return connection.execute(
            "SELECT id, status FROM opsconsole_run WHERE kind = 'migrate' ORDER BY id"
        ).fetchall()


def test_twenty_posts_of_one_form_make_one_run(busy: Console) -> None:
    before = len(statuses(busy))
    client, fields = form(busy, "operator")
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: busy.post(client, PATH, **fields), range(20)))

    assert {(a.status_code, a.headers.get("location")) for a in answers} == {
        (302, f"/runs/{statuses(busy)[-1][0]}")
    }
    assert len(statuses(busy)) - before == 1
    busy.wait_ended(statuses(busy)[-1][0])


def test_twenty_forms_of_two_people_make_one_run_and_clear_refusals(busy: Console) -> None:
    before = len(statuses(busy))
    with busy.target() as other, table_lock(other, "payouts", "ACCESS EXCLUSIVE"):
        people = [form(busy, name) for name in ("operator", "admin")]

        def post(number: int):
            client, fields = people[number % 2]
            return busy.post(client, PATH, plan=fields["plan"], key=f"{number:032x}")

        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(post, range(20)))
        assert sorted(a.status_code for a in answers) == [302] + [409] * 19
        refused = next(a for a in answers if a.status_code == 409)
        assert "one run at a time changes Sales Commission staging" in refused.text
    assert len(statuses(busy)) - before == 1
    busy.wait_ended(statuses(busy)[-1][0])


def test_message_delivered_three_times_runs_once(busy: Console) -> None:
    with busy.target() as other, table_lock(other, "payouts", "ACCESS EXCLUSIVE"):
        run_id = busy.ops("migrate", STAGING)["id"]  # type: ignore[index]
        busy.reaches(run_id, "backup")
        for _again in range(2):
            busy.send("opsconsole.execute_run", run_id, "runs")

        def refused() -> bool:
            with busy.database() as connection:
                row = connection.execute(
                    "SELECT count(*) FROM opsconsole_auditevent WHERE run_id = %s"
                    " AND action = 'run.duplicate_delivery'",
                    [run_id],
                ).fetchone()
            return row == (2,)

        wait_for(refused, "no duplicate was recorded")
    assert busy.wait_ended(run_id) == "succeeded"
    with busy.database() as connection:
        starts = connection.execute(
            "SELECT count(*) FROM opsconsole_auditevent WHERE run_id = %s"
            " AND action = 'run.started'",
            [run_id],
        ).fetchone()
    assert starts == (1,)
