"""Who may call what: every address of the URLconf, those of tomorrow included."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import pytest
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import URLPattern, get_resolver, reverse
from django.utils import timezone

from backups_app.models import Backup, ReplacedDatabase, RestoreCheck, Storage
from migrations_app.models import ExpectedSchema, Repository, SchemaReading, SchemaText, Waiver
from opsconsole.access.models import Membership, User
from opsconsole.environments import secrets
from opsconsole.environments.models import Application, Environment, Target
from opsconsole.events.models import AuditEvent
from opsconsole.health.models import HealthCheck
from opsconsole.runs.models import Run
from opsconsole.work.models import WorkItem
from tests.worker import observe_target

MIGRATION = "20250101000000_init"
REFUSED = {403, 404, 405}
# For whoever signs in, or for whoever has a role: they show what belongs to the viewer's places.
OF_NO_OBJECT = {"home", "find", "console-health", "sign-in", "sign-out", "preferences", "runs",
                "audit", "audit-csv", "backups", "settings", "role-add",
                "settings-remove"}  # fmt: skip
# Posts that change nothing but oneself, or ask a worker to look again.
FOR_EVERYBODY = {"sign-in", "sign-out", "preferences", "read-now", "drift-check"}


def patterns(among: list) -> Iterator[URLPattern]:
    for entry in among:
        if hasattr(entry, "url_patterns"):
            yield from patterns(entry.url_patterns)
        else:
            yield entry


def objects_of(environment: Environment, admin: User) -> dict[str, int]:
    """One object of each kind in the environment and on the console, by the start of its URL's name."""
    application, target = environment.application, environment.targets.get()
    run = Run.objects.create(
        kind="backup",
        environment=environment,
        target=target,
        status="failed",
        requested_by=admin,
        idempotency_key="x",
    )
    backup = Backup.objects.create(
        environment=environment,
        target=target,
        run=run,
        key="k",
        size_bytes=1,
        raw_bytes=1,
        sha256="0" * 64,
        manifest={
            "content": None,
            "server": {},
            "compression": "zstd:3",
            "format": "custom",
            "recipients": [],
        },
    )
    replaced = ReplacedDatabase.objects.create(
        target=target,
        run=run,
        live_name="a",
        replaced_name="b",
        built_name="c",
        old_oid=1,
        new_oid=2,
        swapped_at=timezone.now(),
    )
    waiver = Waiver.objects.create(
        application=application,
        migration=MIGRATION,
        checksum="c",
        rule="r",
        reason="x",
        waived_by=admin,
    )
    Repository.objects.create(application=application, url="https://localhost/x.git")
    event = AuditEvent.objects.create(action="x", actor_label="x", environment=environment)
    for sha, name in (("a", "table a"), ("b", "table b")):
        text = SchemaText.objects.create(sha256=sha * 64, definitions={name: name})
        ExpectedSchema.objects.get_or_create(target=target, defaults={"schema": text})
        SchemaReading.objects.create(target=target, schema=text)
    storage = Storage.objects.create(name="bucket", url="file:///nowhere")
    role = Membership.objects.create(user=admin, role="viewer", environment=environment)
    return {
        "application": application.pk, "repository": application.pk, "lint": application.pk,
        "environment": environment.pk, "connection": environment.pk, "test": environment.pk,
        "health": HealthCheck.objects.get(environment=environment).pk, "run": run.pk,
        "backup": backup.pk, "restore": backup.pk, "replaced": replaced.pk, "waiver": waiver.pk,
        "storage": storage.pk, "role": role.pk, "person": admin.pk, "audit": event.pk,
        "check": RestoreCheck.objects.create(backup=backup, target=environment.targets.get()).pk,
        "work": WorkItem.objects.create(work="x", key="x", environment=environment).pk,
    }  # fmt: skip


def addresses_of(environment: Environment, keys: dict[str, int]) -> list[tuple[str, str]]:
    """The name and address of everything there is."""
    there = {
        "application": environment.application.slug, "environment": environment.slug,
        "name": MIGRATION, "environment_id": environment.pk, "run_id": keys["run"],
        "application_id": environment.application_id, "event_id": keys["audit"],
        "check_id": keys["check"], "thing": "role",
    }  # fmt: skip
    found = []
    for pattern in patterns(get_resolver().url_patterns):
        names = pattern.pattern.converters
        there["pk"] = keys.get(pattern.name.partition("-")[0], 0)
        found.append((pattern.name, reverse(pattern.name, kwargs={n: there[n] for n in names})))
    return found


@pytest.fixture
def places(make_environment, admin) -> tuple[Environment, list[tuple[str, str]], dict]:
    """An environment of the person, and every address of another one and of the console."""
    mine = make_environment("staging")
    other = make_environment("production", position=2)
    observe_target(other.targets.get())
    keys = objects_of(other, admin)
    return mine, addresses_of(other, keys), {"environment": other.pk}


def answers(
    client: Client, addresses: list[tuple[str, str]], methods: tuple[str, ...], data: dict
) -> Iterator[tuple[str, str, int]]:
    """Name, method and status of each call; nothing that a call changes stays, sign-out included."""
    signed_in = deepcopy(client.cookies)
    for name, address in addresses:
        for method in methods:
            client.cookies = deepcopy(signed_in)
            with transaction.atomic():
                answer = getattr(client, method)(address, data)
                answer.getvalue()  # what is streamed is made only when it is read
                transaction.set_rollback(True)
            yield name, method, answer.status_code


def signed_in(*roles: Membership) -> Client:
    user = User.objects.create_user("limited")
    for role in roles:
        role.user = user
        role.save()
    client = Client(raise_request_exception=False)
    client.force_login(user)
    return client


class Opened(Exception):
    """The web process tried to open what is sealed: no view may answer this away."""


def test_no_address_opens_what_is_sealed(places, admin, monkeypatch):
    _mine, addresses, data = places
    Target.objects.update(scratch_dsn_encrypted=secrets.seal("postgresql://u:p@h/d"))
    for model in (Repository, Storage):
        model.objects.update(secret_encrypted=secrets.seal("secret"))
    monkeypatch.setattr(secrets, "Refused", Opened)
    client = Client()
    client.force_login(admin)
    called = list(answers(client, addresses, ("get", "post"), data))
    # It says 503 as long as no worker is there.
    assert {name for name, _method, status in called if status >= 500} == {"console-health"}


def test_admin_of_the_console_reaches_every_address(places, admin):
    _mine, addresses, data = places
    client = Client(raise_request_exception=False)
    client.force_login(admin)
    # Otherwise the tests below would take "not found" for "refused": make an object for it above.
    unreached = [
        each
        for each in addresses
        if all(
            status in REFUSED or status >= 500
            for _name, _method, status in answers(client, [each], ("get", "post"), data)
        )
    ]
    assert unreached == [("console-health", "/health")]


@pytest.mark.parametrize("scope", ["environment", "application"])
def test_admin_of_one_place_is_refused_at_every_address_elsewhere(places, scope):
    mine, addresses, data = places
    if scope == "application":
        elsewhere = Application.objects.create(slug="else", name="Else")
        client = signed_in(Membership(role="admin", application=elsewhere))
    else:
        client = signed_in(Membership(role="admin", environment=mine))
    allowed = [
        (name, method, status)
        for name, method, status in answers(client, addresses, ("get", "post"), data)
        if status not in REFUSED and name not in OF_NO_OBJECT
    ]
    # The page of the application shows whoever sees one of its environments those that they see.
    assert allowed == ([("application", "get", 200)] if scope == "environment" else [])


def test_admin_of_one_environment_who_may_see_all_changes_nothing_elsewhere(places):
    mine, addresses, data = places
    client = signed_in(Membership(role="admin", environment=mine), Membership(role="viewer"))
    allowed = [
        (name, status)
        for name, _method, status in answers(client, addresses, ("post",), data)
        if status not in REFUSED and name not in OF_NO_OBJECT | FOR_EVERYBODY
    ]
    # A backup of another environment can be restored into one's own, so its form is there.
    assert allowed == [("backup-restore", 422)]


@pytest.mark.parametrize("role", ["viewer", ""])
def test_viewer_and_person_without_a_role_are_refused_every_post(places, role):
    _mine, addresses, data = places
    client = signed_in(*([Membership(role=role)] if role else []))
    exempt = FOR_EVERYBODY if role else {"sign-in", "sign-out", "preferences"}
    allowed = [
        (name, status)
        for name, _method, status in answers(client, addresses, ("post",), data)
        if status not in {403, 405} and name not in exempt
    ]
    assert allowed == []


def test_page_reads_the_roles_of_its_viewer_once(apart):
    mine, other = apart
    client = signed_in(Membership(role="admin", environment=mine), Membership(role="viewer"))
    with CaptureQueriesContext(connection) as queries:
        assert client.get(other.get_absolute_url()).status_code == 200
    assert sum("opsconsole_membership" in query["sql"] for query in queries) == 1


# -- roles and people


@pytest.fixture
def apart(db) -> tuple[Environment, Environment]:
    """Two environments of one application, without databases."""
    application = Application.objects.create(slug="shop", name="Shop")
    made = []
    for number, slug in enumerate(("staging", "production")):
        made.append(
            Environment.objects.create(
                application=application, slug=slug, name=slug.capitalize(), position=number
            )
        )
        Target.objects.create(environment=made[-1], dsn_reference="env:NOWHERE")
    return made[0], made[1]


def test_scoped_admin_grants_roles_at_own_places_only(apart, admin):
    mine, other = apart
    client = signed_in(Membership(role="admin", environment=mine))
    me = User.objects.get(username="limited")

    def give(**where: int) -> int:
        return client.post(
            reverse("role-add"), {"user": me.pk, "role": "admin"} | where
        ).status_code

    assert give() == 403
    assert give(environment=other.pk) == 422
    assert give(application=mine.application_id) == 422
    assert me.memberships.count() == 1
    given = {"user": admin.pk, "role": "operator", "environment": mine.pk}
    assert client.post(reverse("role-add"), given).status_code == 302
    role = admin.memberships.get(environment=mine)
    remove = reverse("role-revoke", args=[role.pk])
    assert client.post(remove).status_code == 302
    assert admin.memberships.count() == 1


def test_admin_of_an_application_grants_roles_in_its_environments(apart):
    mine, other = apart
    elsewhere = Application.objects.create(slug="else", name="Else")
    client = signed_in(Membership(role="admin", application=mine.application))
    me = User.objects.get(username="limited")
    role = {"user": me.pk, "role": "viewer"}
    assert client.post(reverse("role-add"), role | {"environment": other.pk}).status_code == 302
    assert client.post(reverse("role-add"), role | {"application": elsewhere.pk}).status_code == 422
    remove = reverse("role-revoke", args=[me.memberships.get(role="viewer").pk])
    assert client.post(remove).status_code == 302


def test_settings_page_shows_a_scoped_admin_own_places_only(apart, admin):
    mine, other = apart
    client = signed_in(Membership(role="admin", environment=mine))
    Membership.objects.create(user=User.objects.create_user("stranger"), role="viewer")
    page = client.get(reverse("settings")).content.decode()
    assert reverse("environment-edit", args=[mine.application_id, mine.pk]) in page
    for text in (
        reverse("environment-edit", args=[other.application_id, other.pk]),
        reverse("application-edit", args=[mine.application_id]),
        reverse("environment-add", args=[mine.application_id]),
        reverse("repository-edit", args=[mine.application_id]),
        reverse("application-add"),
        reverse("person-add"),
        reverse("storage-add"),
        reverse("person-lock-out", args=[admin.pk]),
    ):
        assert f'"{text}"' not in page, text
    assert "stranger" not in page


def test_admin_of_an_application_edits_it_and_adds_environments(apart):
    mine, _other = apart
    client = signed_in(Membership(role="admin", application=mine.application))
    for name, *args in (
        ("application-edit", mine.application_id),
        ("environment-add", mine.application_id),
        ("repository-edit", mine.application_id),
        ("lint-levels", mine.application_id),
        ("environment-edit", mine.application_id, mine.pk),
        ("settings",),
    ):
        assert client.get(reverse(name, args=args)).status_code == 200, name


def test_locking_out_and_letting_in_are_two_acts_and_twice_is_once(client, admin, person):
    viewer = person("viewer")
    client.force_login(admin)
    lock = reverse("person-lock-out", args=[viewer.pk])
    let_in = reverse("person-let-in", args=[viewer.pk])
    for address, expected in ((lock, False), (lock, False), (let_in, True), (let_in, True)):
        assert client.post(address).status_code == 302
        viewer.refresh_from_db()
        assert viewer.is_active is expected
    actions = AuditEvent.objects.filter(action__startswith="person.").order_by("id")
    assert list(actions.values_list("action", flat=True)) == [
        "person.signed_in",
        "person.disabled",
        "person.enabled",
    ]
