"""Pages speak the language of who reads them; rows keep what was said in English."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from datetime import UTC, datetime

import pytest
from django.db import transaction
from django.test import Client
from django.urls import reverse
from django.utils import translation

from backups_app.models import BackupPolicy, ScheduledOccurrence, Storage
from backups_app.services.policies import _run_occurrence
from migrations_app.services.migrations import complete_checklist
from opsconsole.environments.models import Application, Environment, Target
from opsconsole.events.models import AuditEvent
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.models import Run
from opsconsole.runs.services import claim_run
from opsconsole.web import errors
from tests import pseudo
from tests.access.test_addresses import addresses_of, objects_of
from tests.worker import observe_target


@pytest.fixture(autouse=True)
def _spoken() -> Iterator[None]:
    with pseudo.spoken():
        yield


@pytest.fixture
def reader(admin) -> Client:
    """An admin of the console who reads it in the made-up language."""
    client = Client(headers=pseudo.ASKS_FOR_IT)
    client.force_login(admin)
    return client


@pytest.fixture
def place(db) -> Environment:
    """A protected environment whose database is nowhere."""
    shop = Application.objects.create(slug="shop", name="Shop")
    made = Environment.objects.create(
        application=shop, slug="live", name="Live", position=1, is_protected=True
    )
    Target.objects.create(environment=made, dsn_reference="env:NOWHERE")
    return made


def run_of(environment: Environment, status: RunStatus, **more: str) -> Run:
    return Run.objects.create(
        operation="backup",
        kind="backup",
        environment=environment,
        status=status,
        target=environment.targets.get(),
        idempotency_key="x",
        **more,
    )


def test_message_keeps_its_placeholders_and_html_and_is_longer():
    assert pseudo.translated("%(n)d of {all}") == "⟦%(n)d óf {all}····⟧"
    assert pseudo.translated("See <a href='/x'>the page</a>.") == (
        "⟦Séé ·⟧<a href='/x'>⟦thé págé··⟧</a>."
    )
    assert pseudo.translated("yes,no,maybe") == "⟦ýés·⟧,⟦ñó⟧,⟦máýbé·⟧"


def test_text_that_is_not_marked_is_found_and_data_is_not():
    html = (
        "<html lang=qps><p title='Forgotten'>⟦Rúñ ⟦5⟧·⟧ of Shop, 3 MB</p><p lang=en>Kept.</p>"
        "<code>Code</code><img alt='⟦Ícóñ·⟧'><p>Shop is open</p><p>⟦Cút ó…</p>"
    )
    assert pseudo.unmarked(html, pseudo.Data(["Shop", "of"])) == ["Forgotten", "Shop is open"]


def test_page_says_its_language(reader):
    assert '<html lang="qps"' in reader.get(reverse("home")).content.decode()
    in_english = Client(headers={"Accept-Language": "de"}).get(reverse("sign-in"))
    assert '<html lang="en"' in in_english.content.decode()


@pytest.fixture
def addresses(make_environment, admin) -> list[tuple[str, str]]:
    """The name and address of everything there is, in a protected environment that was read."""
    environment = make_environment("production", is_protected=True)
    observe_target(environment.targets.get())
    Storage.objects.builtin()
    return addresses_of(environment, objects_of(environment, admin))


# What adapters refuse they say in English: they know no Django. It may only become less.
UNMARKED = [
    "'-y' is not the name of a branch or tag, or a commit id",
    "A path has no / at its beginning or its end, and never two together.",
    "a storage starts with file://, s3:// or azure://",
    "give an https://, ssh:// or file:// address, or user@host:path",
    "line 1 is not an age public key (age1… or ssh-ed25519 …)",
    "the address is not a PostgreSQL URL (postgresql://user:password@host:5432/name) or connection"
    " string",
]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {
            "reason": "y",
            "typed_name": "y",
            "path": "/y",
            "url": "y",
            "address": "y",
            "ref": "-y",
            "backup_cron": "y",
            "recipients": "y",
            "slug": "Y y",
            "keep_last": "-1",
            "mark": "y",
        },
    ],
    ids=["nothing", "nonsense"],
)
def test_what_is_said_of_a_refused_form_is_marked_for_translation(reader, addresses, given):
    data = pseudo.Data([*pseudo.stored_texts(), *given.values()])
    cookies, found = deepcopy(reader.cookies), {}
    for name, address in [*addresses, ("nowhere", "/nowhere")]:
        reader.cookies = deepcopy(cookies)
        with transaction.atomic():
            answer = reader.post(address, given)
            transaction.set_rollback(True)
        if not answer.streaming and answer.headers.get("Content-Type", "").startswith("text/html"):
            found |= dict.fromkeys(pseudo.unmarked(answer.content.decode(), data), name)
    assert set(found) == set(UNMARKED if given else ())


def test_page_of_an_error_is_marked_for_translation(rf):
    with translation.override(pseudo.LANGUAGE):
        page = errors.broken(rf.get("/")).content.decode()
    assert pseudo.unmarked(page, pseudo.Data([])) == []


def test_run_cancelled_by_a_reader_of_another_language_is_kept_in_english(reader, place):
    run = run_of(place, RunStatus.QUEUED)
    assert reader.post(reverse("run-cancel", args=[run.pk]), {"sure": "yes"}).status_code == 302
    run.refresh_from_db()
    assert run.summary == "Cancelled before it started. Nothing was changed."
    event = AuditEvent.objects.get(action="run.cancel_requested")
    assert event.object_label == f"Run {run.pk}"
    assert pseudo.OPENS not in event.sentence
    page = reader.get(reverse("audit-event", args=[event.pk])).content.decode()
    assert pseudo.translated("Who, what, when") in page


def test_run_settled_by_a_reader_of_another_language_is_kept_in_english(reader, place, admin):
    run = run_of(place, RunStatus.NEEDS_ATTENTION, summary="Look.")
    given = {"status": "failed", "reason": "seen"}
    assert reader.post(reverse("run-decide", args=[run.pk]), given).status_code == 302
    run.refresh_from_db()
    assert run.summary == f"Look. Decided by {admin}: seen"


def test_refusals_that_rows_keep_are_in_english(place):
    run = run_of(place, RunStatus.QUEUED)
    Run.objects.filter(pk=run.pk).update(operation="of old")
    policy = BackupPolicy.objects.default(place)
    with translation.override(pseudo.LANGUAGE):
        assert claim_run(run.pk, "worker") is None
        due = datetime(2026, 1, 1, tzinfo=UTC)
        assert _run_occurrence(place.targets.get(), policy, "verify", due) is None
    run.refresh_from_db()
    assert run.summary == "Refused: this version of the console cannot run Back up live."
    assert ScheduledOccurrence.objects.get().refusal == "There is no backup to prove."


def test_checklist_kept_with_a_run_is_in_english(place):
    in_english = complete_checklist(place.targets.get(), [], {})
    with translation.override(pseudo.LANGUAGE):
        assert complete_checklist(place.targets.get(), [], {}) == in_english
