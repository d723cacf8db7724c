"""What a form says is read by a form: what cannot be read comes back with what was typed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError
from django.test.html import parse_html
from django.urls import reverse
from hypothesis import given as drawn
from hypothesis import strategies as st

from opsconsole.events.models import AuditEvent
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.models import Run
from opsconsole.web.forms import SizeField
from opsconsole.web.widgets import FilterSelect
from tests.worker import observe_target

GIVEN = {"GET", "POST", "FILES"}
# Where what was sent is read without a form, and why that is enough.
EXCEPTIONS = {
    ("opsconsole/web/middleware.py", "process_view"): "looks into every text for a NUL",
    ("opsconsole/web/pages.py", "stretch_of"): "any text but a cursor is the list's beginning",
    ("opsconsole/runs/views.py", "run_log_tail"): "any text but a number is the log's beginning",
    ("opsconsole/templatetags/console.py", "query"): "hands the query on as it is",
}
LONG = "why " * 200


def sources() -> Iterator[Path]:
    for room in ("opsconsole", "migrations_app", "backups_app"):
        yield from (settings.BASE_DIR / room).rglob("*.py")


def is_form(call: ast.expr) -> bool:
    name = call.func if isinstance(call, ast.Call) else None
    return isinstance(name, ast.Name) and name.id.endswith("Form")


def read_by_hand(node: ast.AST, function: str = "") -> Iterator[str]:
    """The functions that read what was sent other than by handing it to a form."""
    if isinstance(node, ast.FunctionDef):
        function = node.name
    if is_form(node):
        return
    if isinstance(node, ast.Attribute) and node.attr in GIVEN:
        yield function
    for child in ast.iter_child_nodes(node):
        yield from read_by_hand(child, function)


def test_what_is_sent_is_read_by_forms_only():
    found = {
        (str(path.relative_to(settings.BASE_DIR)), function)
        for path in sources()
        for function in read_by_hand(ast.parse(path.read_text()))
    }
    assert found == set(EXCEPTIONS)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("back-up", {}),
        ("drift-acknowledge", {"schema": "s"}),
        ("drift-adopt", {"schema": "s", "title": "add_phone"}),
        ("end-session", {"pid": "1"}),
    ],
)
def test_reason_that_is_too_long_comes_back_as_it_was_typed(environment, as_role, name, given):
    place = reverse(name, args=[environment.application.slug, environment.slug])
    answer = as_role("admin").post(place, given | {"reason": LONG})
    assert (answer.status_code, Run.objects.count()) == (422, 0)
    assert LONG.strip() in answer.content.decode()
    assert not AuditEvent.objects.exclude(action="person.signed_in").exists()


def test_confirmation_that_cannot_be_read_keeps_all_that_was_typed(environment, folder, as_role):
    environment.is_protected = True
    environment.save()
    folder.add("20250201000000_add", 'ALTER TABLE "users" ADD COLUMN "x" int;\n')
    observe_target(environment.targets.get())
    place = reverse("migrate", args=[environment.application.slug, environment.slug])
    answer = as_role("admin").post(
        place,
        {
            "plan": "p",
            "key": "k" * 32,
            "typed_name": "stag",
            "reason": LONG,
            "check-team_notified": "on",
            "note-team_notified": "told sales",
        },
    )
    assert (answer.status_code, Run.objects.count()) == (422, 0)
    page = answer.content.decode()
    for kept in (LONG.strip(), 'value="stag"', 'value="told sales"', "k" * 32, " checked>"):
        assert kept in page, kept


def test_form_of_another_page_comes_back_on_its_own_with_all_that_was_typed(environment, as_role):
    place = reverse("drift-adopt", args=[environment.application.slug, environment.slug])
    client = as_role("admin")
    answer = client.post(
        place, {"schema": "abc", "title": "Add phone", "reason": "asked by sales", "key": "k" * 32}
    )
    page = answer.content.decode()
    assert answer.status_code == 422
    assert "Name it with small letters, digits and underscores" in page
    for kept in ("abc", "Add phone", "asked by sales", "k" * 32, 'name="csrfmiddlewaretoken"'):
        assert kept in page, kept
    assert "Adopt as a migration" in page


def test_act_that_is_too_late_keeps_what_was_typed(environment, as_role):
    place = reverse("end-session", args=[environment.application.slug, environment.slug])
    answer = as_role("admin").post(
        place, {"pid": "4711", "reason": "left by a deploy", "key": "k" * 32}
    )
    page = answer.content.decode()
    assert answer.status_code == 409
    for kept in ("no longer holds the lock", 'value="4711"', "left by a deploy", "k" * 32):
        assert kept in page, kept


@pytest.mark.parametrize("given", [{}, {"key": "k" * 31}, {"key": "k" * 31 + "/"}])
def test_form_without_a_key_comes_back_with_one(environment, as_role, given):
    place = reverse("back-up", args=[environment.application.slug, environment.slug])
    answer = as_role("admin").post(place, given | {"reason": LONG})
    assert re.search(r'name="key" value="[0-9a-f]{32}"', answer.content.decode())


@pytest.mark.parametrize("given", [{}, {"status": "running"}, {"status": "²"}])
def test_decision_without_an_end_keeps_its_reason(environment, operator, as_role, given):
    run = Run.objects.create(
        kind="migrate",
        environment=environment,
        target=environment.targets.get(),
        status=RunStatus.NEEDS_ATTENTION,
        requested_by=operator,
        idempotency_key="n",
    )
    place = reverse("run-decide", args=[run.pk])
    answer = as_role("operator").post(place, given | {"reason": "looked at it"})
    run.refresh_from_db()
    assert (answer.status_code, run.status) == (422, RunStatus.NEEDS_ATTENTION)
    page = answer.content.decode()
    assert "Choose how the run ended." in page
    assert "looked at it" in page


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("runs", {"kind": "x"}),
        ("runs", {"status": "x"}),
        ("runs", {"environment": "0"}),
        ("backups", {"environment": "x"}),
        ("find", {"q": "x" * 201}),
    ],
)
def test_filter_that_is_none_is_said_on_the_page(environment, as_role, name, query):
    answer = as_role("viewer").get(reverse(name), query)
    assert answer.status_code == 422
    assert "errorlist" in answer.content.decode()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("/runs?kind=nonsense", "Nothing was looked for"),
        ("/backups?environment=x", "Nothing was looked for"),
        ("/audit?until=x", "Nothing was looked for"),
        ("/runs?kind=restore", "Nothing matches."),
        ("/runs", "No run yet."),
        ("/backups", "No backup yet."),
    ],
)
def test_empty_list_says_why_it_is_empty(environment, as_role, address, said):
    page = as_role("viewer").get(address).content.decode()
    found = [
        each
        for each in ("Nothing was looked for", "Nothing matches.", "No run yet.", "No backup yet.")
        if each in page
    ]
    assert found == [said]


@drawn(st.integers(0, 10**15))
def test_size_is_shown_so_that_it_is_read_back_the_same(amount):
    field = SizeField(required=False)
    assert field.clean(field.prepare_value(amount)) == amount


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20 GB", 20_000_000_000),
        ("1.5kb", 1500),
        ("812 B", 812),
        ("1,024 MB", 1_024_000_000),
        ("", None),
    ],
)
def test_size_is_read_with_its_unit(text, expected):
    assert SizeField(required=False).clean(text) == expected


@pytest.mark.parametrize("text", ["20", "20 XB", "GB", "-1 GB", "1e9 B", "²0 GB"])
def test_size_without_a_unit_or_a_number_is_refused(text):
    with pytest.raises(ValidationError, match="Give a size with its unit"):
        SizeField().clean(text)


@pytest.mark.fast
@pytest.mark.parametrize("chosen", ["", 'a"b', "another", None])
def test_select_of_a_filter_is_written_as_django_writes_it(chosen):
    choices = [("", "All"), ('a"b', "<x> & y"), (7, "Seven")]
    attributes = {"id": "id_what", "aria-invalid": "true"}
    written, expected = (
        parse_html(kind(choices=choices).render("what", chosen, attributes))
        for kind in (FilterSelect, forms.Select)
    )
    assert written == expected
