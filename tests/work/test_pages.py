"""Late work on the home page: who sees it, what it says, and "Try now"."""

from __future__ import annotations

import io
import re
from datetime import timedelta

import pytest
from celery import current_app
from django.core.management import call_command
from django.db.models.functions import Now
from django.test import Client, TestCase
from django.urls import reverse

from opsconsole.access.models import Membership, User
from opsconsole.events.models import AuditEvent
from opsconsole.work import registry as work_registry
from opsconsole.work.models import WorkItem
from opsconsole.work.registry import Work

pytestmark = pytest.mark.django_db
KEY = "test.note"


@pytest.fixture(autouse=True)
def _work(monkeypatch) -> None:
    monkeypatch.setitem(
        work_registry.WORK, KEY, Work(KEY, "Write a note", lambda _arguments: lambda: None)
    )


def late_item(**fields) -> WorkItem:
    late = Now() - timedelta(hours=1)
    number = WorkItem.objects.count()
    defaults = {"work": KEY, "key": f"k{number}", "created_at": late, "due_at": late}
    return WorkItem.objects.create(**defaults | fields)


def section(client: Client) -> str:
    """The words of the section on late work, "" without one."""
    page = client.get("/").content.decode()
    found = re.search(r'<section[^>]*aria-labelledby="late">.*?</section>', page, re.S)
    return " ".join(re.sub(r"<[^>]+>", " ", found[0]).split()) if found else ""


def test_nothing_late_shows_no_section(as_role, environment):
    WorkItem.objects.create(work=KEY, key="fresh", environment=environment)
    assert section(as_role("admin")) == ""


def test_late_work_says_what_since_when_why_and_when_it_is_tried_again(as_role, environment):
    late_item(
        environment=environment,
        about="x__old_1",
        attempts=4,
        last_error="<the server> is away",
        due_at=Now() + timedelta(minutes=5),
    )
    said = section(as_role("operator"))
    assert re.sub(r"\d+ minutes", "n minutes", said) == (
        "Work that is late 1 Write a note: x__old_1, Shop staging Requested an hour ago , tried 4 times. "
        "Next try: n minutes from now . Last error: &lt;the server&gt; is away Try now"
    )


def test_work_that_nobody_takes_up_or_that_is_unknown_says_so(as_role):
    late_item()
    late_item(work="older.version")
    said = section(as_role("admin"))
    assert "Write a note Requested an hour ago . Waiting for a worker. Try now" in said
    assert "older.version Requested an hour ago . This version of the console cannot do it." in said
    assert said.count("Try now") == 1


def test_late_work_of_another_environment_is_neither_shown_nor_retried(make_environment, client):
    one, other = make_environment("one"), make_environment("other", position=2)
    item = late_item(environment=other)
    user = User.objects.create_user("limited")
    Membership.objects.create(user=user, role="operator", environment=one)
    client.force_login(user)
    assert section(client) == ""
    assert client.post(reverse("work-retry", args=[item.pk])).status_code == 404


def test_viewer_sees_late_work_without_the_button(as_role, environment):
    item = late_item(environment=environment)
    client = as_role("viewer")
    said = section(client)
    assert ("Write a note" in said, "Try now" in said) == (True, False)
    assert client.post(reverse("work-retry", args=[item.pk])).status_code == 403


def test_try_now_makes_it_due_and_a_second_click_on_done_work_is_409(
    as_role, environment, monkeypatch, django_capture_on_commit_callbacks
):
    sent: list[int] = []
    monkeypatch.setattr(current_app, "send_task", lambda _name, args, **_o: sent.append(args[0]))
    item = late_item(environment=environment, due_at=Now() + timedelta(hours=1), attempts=3)
    client, address = as_role("operator"), reverse("work-retry", args=[item.pk])
    assert client.get(address).status_code == 405
    with django_capture_on_commit_callbacks(execute=True):
        assert client.post(address).status_code == 302
    assert (sent, list(WorkItem.objects.claimable())) == ([item.pk], [item])
    assert AuditEvent.objects.get(action="work.retried").environment == environment
    WorkItem.objects.update(done_at=Now())
    assert client.post(address).status_code == 409


def test_queries_of_home_do_not_grow_with_late_work(
    as_role, environment, django_assert_num_queries
):
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    client = as_role("operator")
    late_item(environment=environment)
    client.get("/")
    with CaptureQueriesContext(connection) as few:
        client.get("/")
    for _ in range(30):
        late_item(environment=environment)
    with django_assert_num_queries(len(few)):
        client.get("/")


def ops(*arguments: str) -> tuple[int, str]:
    out, err = io.StringIO(), io.StringIO()
    with pytest.raises(SystemExit) as end:
        call_command("ops", *arguments, stdout=out, stderr=err)
    return int(end.value.code or 0), (out.getvalue() + err.getvalue()).strip()


def test_shell_lists_late_work_and_tries_it_now(admin, environment, monkeypatch):
    sent = []
    monkeypatch.setattr(current_app, "send_task", lambda _name, args, **_options: sent.append(args))
    assert ops("late") == (0, "no work is late")
    item = late_item(environment=environment, about="x__old_1", attempts=4, last_error="away")
    line = f"{item.pk:>6}  Write a note (x__old_1, shop/staging), tried 4 times: away"
    assert ops("late") == (0, line.strip())
    assert ops("late", "--json")[0] == 0
    with TestCase.captureOnCommitCallbacks(execute=True):
        assert ops("retry", str(item.pk)) == (
            0,
            "a worker will try it as soon as one is free: Write a note",
        )
    assert sent == [[item.pk]]
    assert AuditEvent.objects.get().action == "work.retried"


@pytest.mark.parametrize("which", ["999", "x", "-1"])
def test_shell_refuses_to_retry_what_there_is_not(admin, which):
    assert ops("retry", "--", which) == (
        2,
        f"there is no work {which}: `ops late` lists what is late",
    )
