"""Drift: what is expected after runs, what is found, and how it is settled."""

from __future__ import annotations

import time
import uuid

import psycopg
import pytest
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from migrations_app.reading import drift
from migrations_app.reading.drift import drift_of, patched
from migrations_app.services import doctor
from migrations_app.services import drift as services
from opsconsole.environments.models import Environment
from opsconsole.events.models import AuditEvent
from opsconsole.exceptions import Refused
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.models import Run
from opsconsole.targets.schema import read_schema
from tests.conftest import log_of
from tests.worker import check_drift, execute_run, observe_target

BY_HAND = "ALTER TABLE users ADD COLUMN phone text; CREATE INDEX users_phone ON users (phone);"
CHANGES = [("+", "column public.users.phone"), ("+", "index public.users_phone on public.users")]


def changes(environment) -> list[tuple[str, str]]:
    found = drift_of(environment.targets.get())
    return [(change.sign, change.name) for change in found.changes] if found else []


@pytest.fixture
def drifted(environment, target):
    check_drift(environment.targets.get())
    target.execute(BY_HAND)
    check_drift(environment.targets.get())
    return environment


def shown(environment) -> str:
    return drift_of(environment.targets.get()).reading.schema_id


def adopt(environment, actor, **changes) -> Run:
    asked = {"schema": shown(environment), "title": "add_phone", "reason": "hot fix of last night"}
    run = services.request_adoption(
        actor=actor,
        target=environment.targets.get(),
        idempotency_key=uuid.uuid4().hex,
        **asked | changes,
    )
    execute_run(run.pk, "test-worker")
    run.refresh_from_db()
    return run


def test_first_reading_is_what_is_expected(environment):
    check_drift(environment.targets.get())
    assert changes(environment) == []
    assert environment.targets.get().expected_schemas.get().because == "first"


def test_change_by_hand_is_drift_and_its_undoing_is_none(drifted, target):
    assert changes(drifted) == CHANGES
    target.execute("ALTER TABLE users DROP COLUMN phone")
    check_drift(drifted.targets.get())
    assert changes(drifted) == []


def test_what_was_changed_during_a_reading_is_not_called_read(environment, monkeypatch):
    moments = []

    def read(connection):
        moments.append(timezone.now())
        return read_schema(connection)

    monkeypatch.setattr(drift, "read_schema", read)
    assert check_drift(environment.targets.get()).last_read_at < moments[0]


def test_same_schema_is_one_reading_however_often_it_is_read(environment):
    for _time in range(3):
        check_drift(environment.targets.get())
    reading = environment.targets.get().schema_readings.get()
    assert reading.last_read_at > reading.first_read_at


def test_what_a_run_changes_is_expected(migrate, environment, folder):
    folder.add("20260101000000_email", "ALTER TABLE users ADD COLUMN email text;\n")
    check_drift(environment.targets.get())
    run = migrate()
    check_drift(environment.targets.get())
    assert changes(environment) == []
    newest = environment.targets.get().expected_schemas.first()
    assert (newest.because, newest.run) == ("run", run)


def test_drift_is_told_in_the_run_and_outlives_it(migrate, drifted, folder):
    folder.add("20260101000000_email", "ALTER TABLE users ADD COLUMN email text;\n")
    run = migrate()
    assert run.status == RunStatus.SUCCEEDED, run.summary
    assert "the schema drifted: 2 objects differ from what is expected" in log_of(run)
    assert changes(drifted) == CHANGES


def test_drift_made_just_before_a_run_is_not_taken_for_its_work(
    migrate, environment, folder, target
):
    check_drift(environment.targets.get())
    folder.add("20260101000000_email", "ALTER TABLE users ADD COLUMN email text;\n")
    target.execute(BY_HAND)
    migrate()
    assert changes(environment) == CHANGES


def test_run_after_which_the_schema_was_locked_is_settled_by_the_next_reading(
    migrate, environment, folder, monkeypatch
):
    check_drift(environment.targets.get())
    folder.add("20260101000000_email", "ALTER TABLE users ADD COLUMN email text;\n")

    def locked(_target):
        raise psycopg.errors.LockNotAvailable("canceling statement due to lock timeout")

    with monkeypatch.context() as patch:
        patch.setattr(drift, "_read", locked)
        run = migrate()
    assert run.status == RunStatus.SUCCEEDED, run.summary
    check_drift(environment.targets.get())
    assert changes(environment) == []
    newest = environment.targets.get().expected_schemas.first()
    assert (newest.because, newest.run) == ("run", run)


def test_locked_table_is_not_waited_for(drifted, target):
    with psycopg.connect(drifted.dsn) as other:
        other.execute("LOCK TABLE users")
        began = time.monotonic()
        assert check_drift(drifted.targets.get()) is None
        assert time.monotonic() - began < 10
    assert changes(drifted) == CHANGES


def test_run_that_changes_no_schema_hides_no_drift(
    transactional_db, environment, operator, target, folder
):
    check_drift(environment.targets.get())
    target.execute(BY_HAND)
    observe_target(environment.targets.get())
    run = doctor.request_resolution(
        actor=operator,
        target=environment.targets.get(),
        name="20250101000000_init",
        mark="applied",
        reason="x",
        idempotency_key=uuid.uuid4().hex,
    )
    execute_run(run.pk, "test-worker")
    assert changes(environment) == CHANGES


def test_schema_is_not_judged_while_a_run_changes_it(environment, operator):
    Run.objects.create(
        operation="migrate",
        kind="migrate",
        changes_target=True,
        environment=environment,
        target=environment.targets.get(),
        requested_by=operator,
        status=RunStatus.RUNNING,
        idempotency_key="k",
    )
    assert check_drift(environment.targets.get()) is None
    assert not environment.targets.get().schema_readings.exists()


def test_schema_that_cannot_be_read_changes_nothing(drifted):
    drifted.targets.update(dsn_encrypted="", dsn_reference="env:NOT_SET_ANYWHERE_URL")
    assert check_drift(drifted.targets.get()) is None
    assert changes(drifted) == CHANGES


class TestAcknowledge:
    def test_schema_is_expected_as_it_is_with_who_and_why(self, drifted, operator):
        services.acknowledge(
            actor=operator,
            target=drifted.targets.get(),
            schema=shown(drifted),
            reason=" for the audit ",
        )
        assert changes(drifted) == []
        expected = drifted.targets.get().expected_schemas.first()
        assert (expected.because, expected.accepted_by, expected.reason) == (
            "acknowledged",
            operator,
            "for the audit",
        )
        event = AuditEvent.objects.get(action="drift.acknowledged")
        assert event.details["changes"] == [" ".join(change) for change in CHANGES]

    def test_another_schema_than_the_one_shown_is_refused(self, drifted, operator, target):
        before = shown(drifted)
        target.execute("ALTER TABLE users ADD COLUMN fax text")
        check_drift(drifted.targets.get())
        with pytest.raises(Refused, match="no longer the one that was shown"):
            services.acknowledge(
                actor=operator, target=drifted.targets.get(), schema=before, reason="x"
            )

    def test_reason_is_needed(self, drifted, operator):
        with pytest.raises(Refused, match="Enter a reason"):
            services.acknowledge(
                actor=operator, target=drifted.targets.get(), schema=shown(drifted), reason=" "
            )


@pytest.mark.django_db(transaction=True)
class TestAdopt:
    def test_drift_becomes_a_migration_that_is_applied_here(self, drifted, operator, folder):
        run = adopt(drifted, operator)
        assert run.status == RunStatus.SUCCEEDED, run.summary
        assert changes(drifted) == []
        name = run.parameters["migration"]
        assert name.endswith("_add_phone")
        fresh = Environment.objects.select_related("application").get(pk=drifted.pk)
        (found,) = doctor.diagnose(fresh.targets.get(), fresh.targets.get().latest_state)
        assert (found.name, found.state, found.has_text) == (name, "missing_locally", True)

        # Committed, it is applied here like any other.
        from migrations_app.models import ScriptText

        text = ScriptText.objects.get(pk=run.parameters["checksum"]).sql
        folder.add(name, text)
        state = observe_target(fresh.targets.get())
        assert (state.names("applied")[-1], state.pending, state.data["refusals"]) == (name, [], [])

    def test_its_text_makes_the_same_in_another_environment(self, drifted, operator, database):
        from migrations_app.models import ScriptText
        from tests.conftest import SCHEMA

        run = adopt(drifted, operator)
        with psycopg.connect(database(), autocommit=True) as other:
            other.execute(SCHEMA)
            other.execute(ScriptText.objects.get(pk=run.parameters["checksum"]).sql)
            assert other.execute("SELECT count(phone) FROM users").fetchone() == (0,)
            assert other.execute("SELECT to_regclass('users_phone')::text").fetchone() == (
                "users_phone",
            )

    def test_text_that_the_tool_would_cut_in_two_is_refused(self, drifted, operator, target):
        drifted.application.engine = "dbmate"
        target.execute(
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$\n-- migrate:down\nSELECT 1 $$"
        )
        check_drift(drifted.targets.get())
        with pytest.raises(Refused, match="is a second `-- migrate:down`"):
            adopt(drifted, operator)
        assert not Run.objects.exists()

    def test_schema_changed_since_it_was_shown_is_refused(self, drifted, operator, target):
        run = services.request_adoption(
            actor=operator,
            target=drifted.targets.get(),
            schema=shown(drifted),
            title="add_phone",
            reason="x",
            idempotency_key=uuid.uuid4().hex,
        )
        target.execute("ALTER TABLE users ADD COLUMN fax text")
        execute_run(run.pk, "test-worker")
        run.refresh_from_db()
        assert run.status == RunStatus.FAILED
        assert "the schema was changed since it was shown" in run.summary
        assert observe_target(drifted.targets.get()).names("missing_locally") == []

    def test_what_cannot_be_written_is_refused(self, drifted, operator, target):
        target.execute("ALTER TABLE users ALTER COLUMN id DROP DEFAULT")
        target.execute("ALTER TABLE users ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY")
        check_drift(drifted.targets.get())
        with pytest.raises(Refused, match="cannot be written without guessing"):
            adopt(drifted, operator)

    @pytest.mark.parametrize("title", ["", "Add Phone", "../x", "a" * 62])
    def test_bad_name_is_refused(self, drifted, operator, title):
        with pytest.raises(Refused, match="small letters"):
            adopt(drifted, operator, title=title)


class TestPages:
    def test_drift_is_shown_and_settled_in_the_browser(self, drifted, as_role):
        client = as_role("operator")
        page = client.get("/applications/shop/staging").content.decode()
        assert "+ column public.users.phone" in page
        assert "2 objects drifted" in client.get("/").content.decode()
        answer = client.post(
            "/applications/shop/staging/drift/acknowledge",
            {"schema": shown(drifted), "reason": "known"},
        )
        assert answer.status_code == 302
        page = client.get("/applications/shop/staging").content.decode()
        assert "No drift: the schema is the one expected." in page
        assert "known" in page

    def test_refused_settlement_changes_nothing(self, drifted, as_role):
        client = as_role("operator")
        for path, data, status in (
            ("acknowledge", {"schema": "old", "reason": "x"}, 409),
            ("acknowledge", {"schema": shown(drifted)}, 422),
            ("adopt", {"schema": shown(drifted), "reason": "x", "title": "No!"}, 422),
        ):
            assert (
                client.post(f"/applications/shop/staging/drift/{path}", data).status_code == status
            )
        assert changes(drifted) == CHANGES

    def test_viewer_sees_it_and_may_not_settle_it(self, drifted, as_role):
        client = as_role("viewer")
        assert "Acknowledge" not in client.get("/applications/shop/staging").content.decode()
        for path in ("acknowledge", "adopt"):
            answer = client.post(f"/applications/shop/staging/drift/{path}", {"reason": "x"})
            assert answer.status_code == 403

    def test_sql_is_downloaded(self, drifted, as_role):
        client = as_role("viewer")
        text = client.get("/applications/shop/staging/drift.sql").content.decode()
        assert text == (
            "ALTER TABLE public.users ADD COLUMN phone text;\n\n"
            "CREATE INDEX users_phone ON public.users USING btree (phone);\n"
        )

    def test_there_is_no_sql_without_drift(self, environment, as_role):
        assert as_role("viewer").get("/applications/shop/staging/drift.sql").status_code == 404


def test_drift_of_many_environments_is_found_with_the_same_queries(
    make_environment, django_assert_num_queries, folder
):
    from migrations_app.reading.drift import drifts_of

    targets = []
    for number in range(3):
        found = make_environment(f"e{number}", position=number)
        check_drift(found.targets.get())
        targets.append(found.targets.get())
    for some in (targets[:1], targets):
        with django_assert_num_queries(2):
            assert drifts_of(some) == {}


SCHEMAS = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(["1", "2", "3"]))


@given(SCHEMAS, SCHEMAS, SCHEMAS)
def test_patch_keeps_exactly_the_drift_that_was_there_before(expected, before, after):
    result = patched(expected, before, after)
    for name in set("abcdef"):
        if before.get(name) == after.get(name):
            assert result.get(name) == expected.get(name)
        else:
            assert result.get(name) == after.get(name)
