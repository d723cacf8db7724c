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
from opsconsole.environments.models import Application, Draft, Environment, Target
from opsconsole.events.models import AuditEvent
from opsconsole.health.models import HealthCheck
from opsconsole.runs.models import Run
from opsconsole.work.models import WorkItem
from tests.access.test_sudo import TEN_MINUTES, signed_in_ago
from tests.worker import observe_target

MIGRATION = "20250101000000_init"
REFUSED = {403, 404, 405}


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
        "draft": Draft.objects.create(application=application, made_by=admin).pk,
        "source": Draft.objects.create(made_by=admin).pk,
    }  # fmt: skip


def addresses_of(environment: Environment, keys: dict[str, int]) -> list[tuple[str, str]]:
    """The name and address of everything there is."""
    there = {
        "application": environment.application.slug, "environment": environment.slug,
        "name": MIGRATION, "environment_id": environment.pk, "run_id": keys["run"],
        "application_id": environment.application_id, "event_id": keys["audit"],
        "check_id": keys["check"], "thing": "role", "uidb64": "MQ", "token": "x",
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


SCOPES = ("console", "application", "environment", "sibling", "elsewhere")
ALL = frozenset({"console"})
WHOLE = ALL | {"application"}
HERE = WHOLE | {"environment"}
PART = HERE | {"sibling"}
ANYWHERE = frozenset(SCOPES)
EVERYBODY = frozenset({"viewer", "operator", "reviewer", "admin"})
OPERATORS = frozenset({"operator", "admin"})
REVIEWERS = frozenset({"reviewer", "admin"})
HELPERS = EVERYBODY - {"viewer"}
ADMINS = frozenset({"admin"})

# What somebody needs: each time one of the roles, held in one of the scopes.
Needs = tuple[tuple[frozenset[str], frozenset[str]], ...]
OPEN: Needs | None = ((frozenset(), frozenset()),)
SIGNED_IN: Needs | None = ()
ABSENT: Needs | None = None
ANY_ROLE = ((EVERYBODY, ANYWHERE),)
SEES = ((EVERYBODY, HERE),)
SEES_A_PART = ((EVERYBODY, PART),)
RUNS = ((OPERATORS, HERE),)
HELPS = ((HELPERS, HERE),)
REVIEWS_ALL_OF_IT = ((REVIEWERS, WHOLE),)
ADMIN_SOMEWHERE = ((ADMINS, ANYWHERE),)
ADMIN_HERE = ((ADMINS, HERE),)
ADMIN_OF_ALL_OF_IT = ((ADMINS, WHOLE),)
ADMIN_OF_ALL = ((ADMINS, ALL),)
# A backup may be restored elsewhere: seen here, restored where somebody may.
RESTORES = ((EVERYBODY, HERE), (OPERATORS, PART))

# By the name of an address: who may GET it, and who may POST to it.
TABLE: dict[str, tuple[Needs | None, Needs | None]] = {
    "home": (ANY_ROLE, ABSENT),
    "find": (ANY_ROLE, ABSENT),
    "console-health": (OPEN, ABSENT),
    "sign-in": (OPEN, OPEN),
    "account_login": (OPEN, OPEN),
    # After the password, and for those who give none: see test_second_factors.py.
    "mfa_authenticate": (SIGNED_IN, SIGNED_IN),
    "mfa_login_webauthn": (SIGNED_IN, SIGNED_IN),
    "sign-out": (ABSENT, SIGNED_IN),
    # For whoever has a link: see test_passwords.py.
    "password-link": (ABSENT, ABSENT),
    "password-change": (SIGNED_IN, SIGNED_IN),
    "preferences": (SIGNED_IN, SIGNED_IN),
    "sessions": (SIGNED_IN, ABSENT),
    "sessions-end-others": (ABSENT, SIGNED_IN),
    # One's own only: see test_sessions.py.
    "session-end": (ABSENT, ABSENT),
    "mfa_index": (SIGNED_IN, ABSENT),
    "mfa_activate_totp": (SIGNED_IN, SIGNED_IN),
    "mfa_add_webauthn": (SIGNED_IN, SIGNED_IN),
    "mfa_generate_recovery_codes": (SIGNED_IN, SIGNED_IN),
    "account_reauthenticate": (SIGNED_IN, SIGNED_IN),
    "mfa_reauthenticate": (SIGNED_IN, SIGNED_IN),
    "mfa_reauthenticate_webauthn": (SIGNED_IN, SIGNED_IN),
    # For whoever has them: see test_second_factors.py.
    "mfa_deactivate_totp": (ABSENT, ABSENT),
    "mfa_edit_webauthn": (ABSENT, ABSENT),
    "mfa_remove_webauthn": (ABSENT, ABSENT),
    "mfa_view_recovery_codes": (ABSENT, ABSENT),
    "application": (SEES_A_PART, ABSENT),
    "environment": (SEES, ABSENT),
    "environment-health": (SEES, ABSENT),
    "health-check-now": (ABSENT, HELPS),
    # -- runs
    "runs": (ANY_ROLE, ABSENT),
    "run": (SEES, ABSENT),
    "run-status": (SEES, ABSENT),
    "run-rest": (SEES, ABSENT),
    "run-log": (SEES, ABSENT),
    "run-log-download": (SEES, ABSENT),
    "run-cancel": (ABSENT, RUNS),
    "run-decide": (ABSENT, RUNS),
    "run-way-back": (ABSENT, RUNS),
    "work-retry": (ABSENT, RUNS),
    # -- the audit trail
    "audit": (ANY_ROLE, ABSENT),
    "audit-csv": (ANY_ROLE, ABSENT),
    "audit-event": (SEES, ABSENT),
    # -- schema change
    "migrate": (RUNS, RUNS),
    "migration": (SEES, ABSENT),
    "migration-resolve": (ABSENT, RUNS),
    "applied-text": (SEES, ABSENT),
    "finding-waive": (ABSENT, REVIEWS_ALL_OF_IT),
    "waiver-withdraw": (ABSENT, REVIEWS_ALL_OF_IT),
    "drift-check": (ABSENT, SEES),
    "drift-acknowledge": (ABSENT, HELPS),
    "drift-adopt": (ABSENT, RUNS),
    "drift-sql": (SEES, ABSENT),
    "drift-log-script": (SEES, ABSENT),
    "read-now": (ABSENT, SEES),
    "end-session": (ABSENT, RUNS),
    # -- backups
    "backups": (ANY_ROLE, ABSENT),
    "backup": (SEES, ABSENT),
    "back-up": (ABSENT, RUNS),
    "backup-prove": (ABSENT, RUNS),
    "backup-download": (ABSENT, ADMIN_HERE),
    "backup-hold": (ABSENT, HELPS),
    "backup-release": (ABSENT, HELPS),
    "backup-restore": (RESTORES, RESTORES),
    "restore-check": (ABSENT, RUNS),
    "restore-check-result": (RUNS, ABSENT),
    "replaced-undo": (RUNS, RUNS),
    "replaced-drop": (ADMIN_HERE, ADMIN_HERE),
    "backup-import": (ADMIN_HERE, ADMIN_HERE),
    "backup-policy": (ADMIN_HERE, ADMIN_HERE),
    "prune": (ABSENT, ADMIN_HERE),
    # -- settings
    # For whoever changes the looks, in debug mode.
    "styleguide": (ABSENT, ABSENT),
    # For anybody, where a contact is set: see test_pages.py of the views.
    "security-txt": (ABSENT, ABSENT),
    "settings": (ADMIN_SOMEWHERE, ABSENT),
    "settings-remove": (ABSENT, ADMIN_SOMEWHERE),
    "application-add": (ADMIN_OF_ALL, ADMIN_OF_ALL),
    "application-edit": (ADMIN_OF_ALL_OF_IT, ADMIN_OF_ALL_OF_IT),
    "application-archive": (ABSENT, ADMIN_OF_ALL_OF_IT),
    "repository-edit": (ADMIN_OF_ALL_OF_IT, ADMIN_OF_ALL_OF_IT),
    "repository-remove": (ABSENT, ADMIN_OF_ALL_OF_IT),
    "lint-levels": (ADMIN_OF_ALL_OF_IT, ADMIN_OF_ALL_OF_IT),
    "source-edit": (ADMIN_OF_ALL, ADMIN_OF_ALL),
    "source-save": (ABSENT, ADMIN_OF_ALL),
    "draft-edit": (ADMIN_OF_ALL_OF_IT, ADMIN_OF_ALL_OF_IT),
    "draft-save": (ABSENT, ADMIN_OF_ALL_OF_IT),
    "draft-discard": (ABSENT, ADMIN_OF_ALL_OF_IT),
    "environment-add": (ADMIN_OF_ALL_OF_IT, ADMIN_OF_ALL_OF_IT),
    "environment-edit": (ADMIN_HERE, ADMIN_HERE),
    "environment-archive": (ABSENT, ADMIN_HERE),
    "connection-test": (ADMIN_HERE, ABSENT),
    "test-connection": (ABSENT, ADMIN_HERE),
    "health-check-add": (ADMIN_HERE, ADMIN_HERE),
    "health-check-edit": (ADMIN_HERE, ADMIN_HERE),
    "health-check-delete": (ABSENT, ADMIN_HERE),
    "role-add": (ADMIN_SOMEWHERE, ADMIN_SOMEWHERE),
    "role-revoke": (ABSENT, ADMIN_HERE),
    "person-add": (ADMIN_OF_ALL, ADMIN_OF_ALL),
    "person-link": (ABSENT, ADMIN_OF_ALL),
    "person-sessions": (ADMIN_OF_ALL, ABSENT),
    "person-sessions-end": (ABSENT, ADMIN_OF_ALL),
    "person-factors": (ABSENT, ADMIN_OF_ALL),
    "person-let-in": (ABSENT, ADMIN_OF_ALL),
    "person-lock-out": (ABSENT, ADMIN_OF_ALL),
    "storage-add": (ADMIN_OF_ALL, ADMIN_OF_ALL),
    "storage-edit": (ADMIN_OF_ALL, ADMIN_OF_ALL),
    "storage-test": (ADMIN_OF_ALL, ABSENT),
    "storage-test-again": (ABSENT, ADMIN_OF_ALL),
    "storage-retire": (ABSENT, ADMIN_OF_ALL),
}

# What is posted there asks who it is, once in ten minutes: see test_sudo.py.
IN_SUDO_MODE = {
    "application-add", "application-edit", "application-archive", "repository-edit",
    "repository-remove", "lint-levels", "source-edit", "source-save", "draft-edit", "draft-save",
    "draft-discard", "environment-add", "environment-edit", "environment-archive",
    "test-connection", "health-check-add", "health-check-edit", "health-check-delete", "role-add",
    "role-revoke", "person-add", "person-link", "person-factors", "person-let-in",
    "person-sessions-end", "sessions-end-others",
    "person-lock-out", "storage-add", "storage-edit", "storage-test-again", "storage-retire",
    "backup-policy", "prune", "backup-restore", "replaced-undo", "replaced-drop",
    "backup-download", "mfa_activate_totp", "mfa_add_webauthn", "mfa_edit_webauthn",
    "mfa_generate_recovery_codes", "mfa_remove_webauthn",
    # They lead whoever has no second factor to the password.
    "mfa_reauthenticate", "mfa_reauthenticate_webauthn",
}  # fmt: skip
# There also where the environment is protected.
OF_PROTECTED = {"migrate", "run-way-back", "migration-resolve", "drift-adopt", "end-session"}

# Which roles somebody holds where, of None for a stranger.
Person = tuple[tuple[str, str], ...] | None
MAY_ALL: Person = (("admin", "console"),)
BOUNDARIES: list[Person] = [
    None,
    (),
    (("viewer", "console"),),
    (("operator", "environment"),),
    (("reviewer", "application"),),
    MAY_ALL,
    (("admin", "application"),),
    (("admin", "environment"),),
    (("admin", "sibling"),),
    # See it all here, and may do it all there.
    (("viewer", "console"), ("admin", "sibling"), ("admin", "elsewhere")),
]
EVERY_ROLE_AND_SCOPE: list[Person] = [
    ((role, scope),) for role in sorted(EVERYBODY) for scope in SCOPES
]


def is_allowed(person: Person, needs: Needs | None) -> bool:
    if needs is ABSENT or needs is OPEN or person is None:
        return needs is OPEN
    return all(any(r in roles and s in scopes for r, s in person) for roles, scopes in needs)


@pytest.mark.parametrize(
    "persons",
    [
        BOUNDARIES,
        pytest.param(
            EVERY_ROLE_AND_SCOPE,
            marks=pytest.mark.long,
        ),
    ],
    ids=["boundaries", "every role and scope"],
)
def test_every_address_answers_to_those_whom_the_table_names(places, broker, persons):
    mine, addresses, data = places
    elsewhere = Application.objects.create(slug="else", name="Else")
    held = {
        "console": {},
        "application": {"application": mine.application},
        "environment": {"environment": Environment.objects.get(slug="production")},
        "sibling": {"environment": mine},
        "elsewhere": {"application": elsewhere},
    }
    assert {name for name, _address in addresses} == set(TABLE)
    wrong = []
    for number, person in enumerate(persons):
        client = Client(raise_request_exception=False)
        if person is not None:
            user = User.objects.create_user(f"person{number}", password="pw")
            for role, scope in person:
                Membership.objects.create(user=user, role=role, **held[scope])
            client.force_login(user)
        for column, method in enumerate(("get", "post")):
            # What nobody may is asked by whoever may all.
            called = [
                a for a in addresses if TABLE[a[0]][column] is not ABSENT or person == MAY_ALL
            ]
            for name, _method, status in answers(client, called, (method,), data):
                # Strangers are led to the sign-in.
                is_let_in = status not in REFUSED and not (person is None and 300 <= status < 400)
                if status == 500 or is_let_in != is_allowed(person, TABLE[name][column]):
                    wrong.append((person, name, method, status))
    assert wrong == []


def asking_who_it_is(admin: User, addresses: list[tuple[str, str]], data: dict) -> set[str]:
    """Those that send an admin who signed in ten minutes ago to confirm it; nothing is changed."""
    client = Client(raise_request_exception=False)
    client.force_login(admin)
    signed_in_ago(client, TEN_MINUTES)
    signed_in, asking = deepcopy(client.cookies), set()
    for name, address in addresses:
        client.cookies = deepcopy(signed_in)
        with transaction.atomic():
            answer = client.post(address, data)
            transaction.set_rollback(True)
        if answer.headers.get("Location", "").startswith(reverse("account_reauthenticate")):
            asking.add(name)
    return asking


def test_what_could_cost_data_or_let_somebody_in_asks_who_it_is(places, broker, admin):
    _mine, addresses, data = places
    Environment.objects.filter(slug="production").update(is_protected=True)
    assert asking_who_it_is(admin, addresses, data) == IN_SUDO_MODE | OF_PROTECTED


def test_runs_of_an_environment_that_is_not_protected_do_not_ask(places, broker, admin):
    _mine, addresses, data = places
    runs = [there for there in addresses if there[0] in OF_PROTECTED]
    assert asking_who_it_is(admin, runs, data) == set()


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
