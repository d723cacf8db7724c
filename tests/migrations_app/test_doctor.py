"""What is wrong with a migration, from evidence, and each way out of it."""

from __future__ import annotations

import uuid

import psycopg
import pytest

from migrations_app.engines.prisma import ADVISORY_LOCK
from migrations_app.reading.drift import drift_of
from migrations_app.services import doctor, drift
from opsconsole.environments.models import Environment
from opsconsole.events.models import AuditEvent
from opsconsole.exceptions import Refused
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.models import Run
from tests.conftest import superuser
from tests.worker import check_drift, execute_run, observe_target

NAME = "20260101000000_change"
HALF = """CREATE INDEX CONCURRENTLY users_name ON users (name);
ALTER TABLE users ADD COLUMN email text;
ALTER TABLE nowhere ADD COLUMN x int;
CREATE TABLE extra (id int);
"""


def fresh(environment) -> Environment:
    found = Environment.objects.select_related("application").get(pk=environment.pk)
    observe_target(found.targets.get())
    return found


def diagnosis(environment) -> doctor.Diagnosis:
    (found,) = doctor.diagnose(environment.targets.get(), environment.targets.get().latest_state)
    return found


def take(environment, actor, mark: str, reason: str = "seen to") -> Run:
    run = doctor.request_resolution(
        actor=actor,
        target=fresh(environment).targets.get(),
        name=NAME,
        mark=mark,
        reason=reason,
        idempotency_key=uuid.uuid4().hex,
    )
    execute_run(run.pk, "test-worker")
    run.refresh_from_db()
    return run


@pytest.fixture
def half_done(migrate, environment, folder):
    """The first two of four statements have landed, and the third failed."""
    (folder.path.parents[1] / "package.json").write_text('{"devDependencies": {"prisma": "7.4.0"}}')
    folder.add(NAME, HALF)
    run = migrate()
    assert run.status == RunStatus.FAILED, run.summary
    return fresh(environment)


def test_half_done_script_is_told_statement_by_statement(half_done):
    found = diagnosis(half_done)
    assert [trace.landed for trace in found.traces] == [True, True, False, False]
    assert (found.landed, "The first 2 of its 4 statements are in the database." in found.what) == (
        2,
        True,
    )
    assert [(way.mark, way.is_likely) for way in found.ways] == [
        ("finish", True),
        ("rolled_back", False),
        ("applied", False),
    ]
    assert found.run == Run.objects.get()
    assert found.backup == Run.objects.get().backups.get()


def test_rest_is_finished_and_what_had_landed_is_not_run_again(half_done, operator, target):
    target.execute("CREATE TABLE nowhere ()")
    drift.acknowledge(
        actor=operator,
        target=half_done.targets.get(),
        reason="made for it",
        schema=check_drift(half_done.targets.get()).schema_id,
    )
    run = take(half_done, operator, "finish")
    assert run.status == RunStatus.SUCCEEDED, run.summary
    assert run.summary == f"{NAME} is complete and marked applied."
    assert [s.name for s in run.steps.all()] == ["backup", "finish", "health"]
    assert target.execute(
        "SELECT to_regclass('extra')::text, count(x) FROM nowhere"
    ).fetchone() == (
        "extra",
        0,
    )
    assert fresh(half_done).targets.get().latest_state.names("applied")[-1] == NAME
    assert drift_of(half_done.targets.get()) is None
    assert half_done.targets.get().expected_schemas.first().run == run
    assert str(run.title) == f"Finish the rest of {NAME} in staging"


def test_run_that_failed_tells_what_the_catalogue_cannot(migrate, environment, folder, operator):
    folder.add(
        NAME, "BEGIN;\nCREATE TABLE extra (id int);\nCOMMIT;\nUPDATE users SET nothing = 1;\n"
    )
    migrate()
    found = diagnosis(fresh(environment))
    told = "by the log of the run that failed"
    assert [(trace.landed, trace.shown) for trace in found.traces] == [
        (True, told), (True, "relation public.extra is there"), (True, told), (False, told),
    ]  # fmt: skip
    assert found.landed == 3
    assert [way.mark for way in found.ways if way.is_likely] == ["finish"]


def test_rest_that_fails_again_leaves_the_migration_failed(half_done, operator):
    run = take(half_done, operator, "finish")
    assert run.status == RunStatus.FAILED
    assert 'relation "nowhere" does not exist' in run.summary
    assert diagnosis(fresh(half_done)).landed == 2


def test_finish_refuses_a_file_changed_since_it_was_shown(half_done, operator, folder):
    run = doctor.request_resolution(
        actor=operator,
        target=half_done.targets.get(),
        name=NAME,
        mark="finish",
        reason="x",
        idempotency_key=uuid.uuid4().hex,
    )
    (folder.path / NAME / "migration.sql").write_text(HALF + "DROP TABLE users;\n")
    execute_run(run.pk, "test-worker")
    run.refresh_from_db()
    assert run.status == RunStatus.FAILED
    assert "was changed since it was shown" in run.summary


def test_finish_refuses_when_more_has_landed_than_was_shown(half_done, operator, target):
    run = doctor.request_resolution(
        actor=operator,
        target=half_done.targets.get(),
        name=NAME,
        mark="finish",
        reason="x",
        idempotency_key=uuid.uuid4().hex,
    )
    target.execute("CREATE TABLE nowhere (x int)")
    execute_run(run.pk, "test-worker")
    run.refresh_from_db()
    assert "the first 2 statements of" in run.summary
    assert "the catalogue shows something else now" in run.summary


def test_atomic_script_that_failed_left_nothing_and_is_best_marked_rolled_back(
    migrate, environment, folder, operator
):
    folder.add(NAME, "CREATE TABLE extra (id int);\nALTER TABLE nowhere ADD COLUMN x int;\n")
    migrate()
    found = diagnosis(fresh(environment))
    assert "Nothing of it is in the database." in found.what
    assert [way.mark for way in found.ways if way.is_likely] == ["rolled_back"]
    with pytest.raises(Refused, match="has nothing to finish"):
        take(environment, operator, "finish")
    assert take(environment, operator, "rolled_back").status == RunStatus.SUCCEEDED
    assert fresh(environment).targets.get().latest_state.pending == [NAME]


def test_what_something_else_made_is_no_evidence_for_a_file_that_was_rolled_back(
    migrate, environment, folder
):
    folder.add("20250201000000_first", "ALTER TABLE users ADD COLUMN email text;\n")
    folder.add(NAME, "ALTER TABLE users ADD COLUMN email text;\n")
    run = migrate()
    assert "42701" in run.result["failed_script"]["reason"]
    found = diagnosis(fresh(environment))
    assert found.what[-1] == "Nothing of it is in the database."
    assert [(trace.landed, trace.shown) for trace in found.traces] == [
        (False, "as the catalogue shows it, but not by this file")
    ]
    assert [way.mark for way in found.ways if way.is_likely] == ["rolled_back"]


def test_script_whose_tool_died_is_told_from_one_that_failed(environment, folder, target):
    folder.add(NAME, "CREATE TABLE extra (id int);\n")
    target.execute(
        "INSERT INTO _prisma_migrations (id, checksum, migration_name, started_at)"
        " VALUES ('x', 'x', %s, now())",
        [NAME],
    )
    target.execute("CREATE TABLE extra (id int)")
    found = diagnosis(fresh(environment))
    assert found.what[0] == (
        "Its row in Prisma's history has a start, no end and no error: what applied it died."
    )
    assert [way.mark for way in found.ways if way.is_likely] == ["applied"]


def test_edited_file_is_shown_beside_the_text_that_was_applied(environment, folder, as_role):
    fresh(environment)
    file = folder.path / "20250101000000_init" / "migration.sql"
    file.write_text(file.read_text() + "-- <b>later</b>\n")
    found = diagnosis(fresh(environment))
    assert (found.state, found.diff[-1]) == ("edited", "+-- <b>later</b>")
    page = as_role("viewer").get("/applications/shop/staging").content.decode()
    assert "+-- &lt;b&gt;later&lt;/b&gt;" in page


def test_text_that_was_never_seen_is_said_to_be_unknown(environment, folder, target):
    target.execute("UPDATE _prisma_migrations SET checksum = 'never'")
    found = diagnosis(fresh(environment))
    assert (found.state, found.diff, found.has_text) == ("edited", [], False)
    assert "This console never saw the text that was applied" in found.what[1]


def test_migration_under_the_tool_s_lock_is_running(environment, folder, target):
    folder.add(NAME, "SELECT 1;\n")
    target.execute(
        "INSERT INTO _prisma_migrations (id, checksum, migration_name, started_at)"
        " VALUES ('x', 'x', %s, now())",
        [NAME],
    )
    target.execute("SELECT pg_advisory_lock(%s)", [ADVISORY_LOCK])
    found = diagnosis(fresh(environment))
    assert (found.state, found.ways) == ("running", [])


def test_nothing_is_diagnosed_where_nothing_was_read(environment):
    assert doctor.diagnose(environment.targets.get(), None) == []
    assert doctor.lock_holder(None) is None


def test_text_of_a_missing_file_is_given_back(environment, folder, as_role):
    fresh(environment)
    file = folder.path / "20250101000000_init" / "migration.sql"
    text = file.read_bytes()
    file.unlink()
    file.parent.rmdir()
    assert diagnosis(fresh(environment)).state == "missing_locally"
    client = as_role("viewer")
    url = "/applications/shop/staging/migrations/20250101000000_init/applied.sql"
    assert url in client.get("/applications/shop/staging").content.decode()
    assert client.get(url).content == text
    assert client.get("/applications/shop/staging/migrations/none/applied.sql").status_code == 404


class TestStaleLock:
    @pytest.fixture
    def holder(self, environment):
        with psycopg.connect(
            environment.dsn, autocommit=True, application_name="<i>deploy</i>"
        ) as connection:
            connection.execute("SELECT pg_advisory_lock(%s)", [ADVISORY_LOCK])
            yield connection

    def end(self, environment, actor, pid: int) -> Run:
        run = doctor.request_end_session(
            actor=actor,
            target=environment.targets.get(),
            pid=pid,
            reason="the deploy was killed",
            idempotency_key=uuid.uuid4().hex,
        )
        execute_run(run.pk, "test-worker")
        run.refresh_from_db()
        return run

    @pytest.mark.django_db(transaction=True)
    def test_holder_is_named_and_ended(self, environment, operator, holder, as_role):
        found = fresh(environment)
        page = as_role("operator").get("/applications/shop/staging").content.decode()
        assert "Prisma's lock is held" in page
        assert "&lt;i&gt;deploy&lt;/i&gt;" in page
        run = self.end(found, operator, holder.info.backend_pid)
        assert run.status == RunStatus.SUCCEEDED, run.summary
        with pytest.raises(psycopg.OperationalError):
            holder.execute("SELECT 1")
        assert doctor.lock_holder(fresh(environment).targets.get().latest_state) is None
        assert AuditEvent.objects.filter(action="run.requested", run=run).exists()

    @pytest.mark.django_db(transaction=True)
    def test_another_session_with_the_lock_is_not_ended(self, environment, operator, holder):
        found = fresh(environment)
        run = doctor.request_end_session(
            actor=operator,
            target=found.targets.get(),
            pid=holder.info.backend_pid,
            reason="x",
            idempotency_key=uuid.uuid4().hex,
        )
        holder.execute("SELECT pg_advisory_unlock(%s)", [ADVISORY_LOCK])
        with psycopg.connect(environment.dsn, autocommit=True) as other:
            other.execute("SELECT pg_advisory_lock(%s)", [ADVISORY_LOCK])
            execute_run(run.pk, "test-worker")
            run.refresh_from_db()
            assert run.status == RunStatus.FAILED
            assert "another session holds the lock now" in run.summary
            assert other.execute("SELECT 1").fetchone() == (1,)

    def test_holder_that_the_role_may_not_see_is_named_as_far_as_it_may(self, environment, as_role):
        with superuser(environment.dsn.rpartition("@/")[2].partition("?")[0]) as other:
            other.execute("SELECT pg_advisory_lock(%s)", [ADVISORY_LOCK])
            pid = other.info.backend_pid
            fresh(environment)
            page = as_role("operator").get("/applications/shop/staging").content.decode()
        assert f"process {pid} of postgres" in page
        assert "does not have permission to see or end this session" in page
        assert "End this session" not in page

    def test_session_that_was_not_shown_is_refused(self, environment, operator, holder):
        with pytest.raises(Refused, match="no longer holds the lock"):
            doctor.request_end_session(
                actor=operator,
                target=fresh(environment).targets.get(),
                pid=1,
                reason="x",
                idempotency_key="k" * 32,
            )

    def test_viewer_may_not_end_it(self, environment, holder, as_role):
        fresh(environment)
        client = as_role("viewer")
        assert "End this session" not in client.get("/applications/shop/staging").content.decode()
        answer = client.post("/applications/shop/staging/end-session", {"pid": "1", "reason": "x"})
        assert (answer.status_code, Run.objects.count()) == (403, 0)

    @pytest.mark.parametrize("pid", ["", "x", "-1", "²", "9" * 5000])
    def test_wrong_number_is_refused(self, environment, holder, as_role, pid):
        fresh(environment)
        answer = as_role("operator").post(
            "/applications/shop/staging/end-session", {"pid": pid, "reason": "x"}
        )
        assert (answer.status_code, Run.objects.count()) == (422, 0)


@pytest.mark.parametrize(
    ("mark", "reason", "why"),
    [("applied", " ", "Enter a reason"), ("other", "x", "Choose to mark it")],
)
def test_way_out_needs_a_known_mark_and_a_reason(environment, operator, mark, reason, why):
    with pytest.raises(Refused, match=why):
        doctor.request_resolution(
            actor=operator,
            target=environment.targets.get(),
            name=NAME,
            mark=mark,
            reason=reason,
            idempotency_key="k" * 32,
        )
