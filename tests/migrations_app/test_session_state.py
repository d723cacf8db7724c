"""What one migration leaves in the session, the next one finds, as with the tool; nothing of ours."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

import psycopg
import pytest

from migrations_app.engines import Engine, Limits, ScriptFailed
from migrations_app.engines.dbmate import DbmateEngine
from migrations_app.engines.prisma import PrismaEngine
from opsconsole.runs.choices import RunStatus
from tests.conftest import log_of
from tests.migrations_app.test_dbmate_files import by_dbmate
from tests.migrations_app.test_prisma_cli import project, run_prisma
from tests.migrations_app.test_safe_application import reader, set_policy

__all__ = ["project"]
LEAVE = "SET my.word = 'left'; CREATE TEMP TABLE kept (id int); SET search_path TO {path};"
TELL = (
    "CREATE TABLE {name} AS SELECT current_setting('my.word', true) AS word,"
    " current_setting('search_path') AS path, to_regclass('kept')::text AS kept;"
)


def apply_all(engine: Engine, dsn: str, log=lambda *_: None) -> None:
    """As a run does, but that it stops nowhere in between."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        engine.begin_session(connection)
        engine.ensure_history(connection)
        for script in engine.read_folder().scripts:
            engine.apply(connection, script, Limits(), log, lambda _: None)


def effect(dsn: str, history: str) -> list[tuple]:
    """Every table that was made, with its rows; of the history, how many there are."""
    with psycopg.connect(dsn) as connection:
        tables = connection.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('public', 'other')"
        ).fetchall()
        return sorted(
            (space, name, str(rows if name != history else len(rows)))
            for space, name in tables
            for rows in [connection.execute(f'TABLE {space}."{name}"').fetchall()]
        )


def write_prisma(folder: Path, *texts: str) -> None:
    for number, text in enumerate(texts):
        file = folder / f"2025010100000{number}_x" / "migration.sql"
        file.parent.mkdir(parents=True)
        file.write_text(f"{text}\n")


@pytest.mark.needs_prisma
def test_session_goes_on_from_file_to_file_as_with_prisma(project, database):
    folder = project / "prisma" / "migrations"
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    texts = [LEAVE.format(path="other, public"), TELL.format(name="told"), "RESET ALL;"]
    write_prisma(folder, "CREATE SCHEMA other;", *texts, TELL.format(name="later"))
    theirs, ours = database(), database()
    said = run_prisma(project, theirs, "migrate", "deploy")
    apply_all(PrismaEngine(folder), ours)
    assert "All migrations have been successfully applied" in said
    assert effect(ours, "_prisma_migrations") == effect(theirs, "_prisma_migrations")


def write_dbmate(folder: Path, *texts: str) -> None:
    for number, text in enumerate(texts):
        file = folder / f"2025010100000{number}_x.sql"
        file.write_text(f"-- migrate:up\n{text}\n-- migrate:down\n")


@pytest.mark.needs_dbmate
@pytest.mark.parametrize(("path", "is_applied"), [("public, other", True), ("''", False)])
def test_session_goes_on_from_file_to_file_as_with_dbmate(tmp_path, database, path, is_applied):
    made = ["CREATE SCHEMA other;", LEAVE.format(path=path), TELL.format(name="told")]
    write_dbmate(tmp_path, *made)
    theirs, ours = database(), database()
    assert by_dbmate(tmp_path, theirs) is is_applied
    with nullcontext() if is_applied else pytest.raises(ScriptFailed, match="no schema has been"):
        apply_all(DbmateEngine(tmp_path), ours)
    assert effect(ours, "schema_migrations") == effect(theirs, "schema_migrations")


def test_search_path_with_which_dbmate_would_have_stopped_ends_with_its_file(tmp_path, database):
    made = ["CREATE SCHEMA other;", LEAVE.format(path="other"), TELL.format(name="told")]
    write_dbmate(tmp_path, *made)
    dsn = database()
    apply_all(DbmateEngine(tmp_path), dsn)
    assert effect(dsn, "schema_migrations") == [
        ("public", "schema_migrations", "3"),
        ("public", "told", str([("left", '"$user", public', "kept")])),
    ]


def test_search_path_with_which_prisma_would_have_stopped_ends_with_its_file(tmp_path, database):
    write_prisma(tmp_path, LEAVE.format(path="''"), TELL.format(name="told"))
    dsn = database()
    apply_all(PrismaEngine(tmp_path), dsn)
    assert effect(dsn, "_prisma_migrations") == [
        ("public", "_prisma_migrations", "2"),
        ("public", "told", "[('left', 'public', 'kept')]"),
    ]


def test_nothing_of_ours_stays_in_the_session(tmp_path, database):
    """The limits of a wait, and who hears notices."""
    write_prisma(
        tmp_path,
        "CREATE TABLE t (x int); SET lock_timeout = '7s'; SET statement_timeout = '8s';",
        "CREATE INDEX CONCURRENTLY i ON t (x);",
        "DO $$ BEGIN RAISE WARNING '% %', current_setting('lock_timeout'),"
        " current_setting('statement_timeout'); END $$;",
    )
    said: list[tuple] = []
    limits = Limits(lock_timeout=5, statement_timeout=6)
    engine = PrismaEngine(tmp_path)
    with psycopg.connect(database(), autocommit=True) as connection:
        engine.begin_session(connection)
        engine.ensure_history(connection)
        for script in engine.read_folder().scripts:
            engine.apply(connection, script, limits, lambda *x: said.append(x), lambda _: None)
        assert connection.execute("SHOW lock_timeout").fetchone() == ("7s",)
        assert connection.execute("SHOW statement_timeout").fetchone() == ("8s",)
    assert said == [("  WARNING 01000: 5s 6s (20250101000002_x/migration.sql line 1)", "hm")]


def test_rows_are_counted_once_whatever_the_session_wrote_before(tmp_path, database):
    seven = "INSERT INTO t SELECT generate_series(1, 7);"
    write_prisma(
        tmp_path,
        f"CREATE TABLE t (x int); {seven}",
        seven,
        f"{seven} BEGIN; {seven} COMMIT; {seven}",
        "UPDATE t SET x = 0; DELETE FROM t;",
    )
    engine = PrismaEngine(tmp_path)
    with psycopg.connect(database(), autocommit=True) as connection:
        engine.begin_session(connection)
        engine.ensure_history(connection)
        written = [
            engine.apply(connection, script, Limits(), lambda *_: None, lambda _: None).rows_written
            for script in engine.read_folder().scripts
        ]
    assert written == [7, 7, 21, 70]


WHO = (
    "SELECT pid, application_name, current_setting('client_connection_check_interval')"
    " FROM pg_stat_activity WHERE pid = pg_backend_pid() OR application_name LIKE '%:watch'"
)


def test_run_has_one_session_and_one_watch_and_keeps_hold_of_them(migrate, folder, target):
    altering = "SET application_name = 'theirs'; RESET ALL; SET application_name = 'theirs';"
    folder.add("20260101000000_a", f"CREATE TABLE told AS {WHO}; {altering}")
    folder.add("20260102000000_b", f"INSERT INTO told {WHO};")
    run = migrate()
    assert run.status == RunStatus.SUCCEEDED, run.summary
    told = target.execute("SELECT DISTINCT * FROM told ORDER BY 2").fetchall()
    names = [f"opsconsole:{run.pk}:{part}" for part in ("migrate", "watch")]
    assert [who[1:] for who in told] == [(name, "1s") for name in names]


def test_session_that_is_lost_between_two_files_is_opened_anew(migrate, folder, monkeypatch):
    folder.add("20260101000000_a", "CREATE TABLE a (x int);")
    folder.add("20260102000000_b", "CREATE TABLE b (x int);")
    original = PrismaEngine.apply

    def apply_and_lose(self, connection, *arguments):
        outcome = original(self, connection, *arguments)
        with psycopg.connect(connection.info.dsn, password=connection.info.password) as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", [connection.info.backend_pid])
        return outcome

    monkeypatch.setattr(PrismaEngine, "apply", apply_and_lose)
    run = migrate()
    assert run.status == RunStatus.SUCCEEDED, run.summary
    assert "the session was lost: a new one goes on" in log_of(run)


def test_watch_that_lost_its_session_watches_the_next_file(migrate, environment, folder):
    set_policy(environment, blocking_limit_seconds=1)
    ending = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE"
    folder.add("20260101000000_a", f"{ending} '%:watch'; SELECT pg_sleep(0.3);")
    folder.add("20260102000000_b", "ALTER TABLE users ADD COLUMN x int; SELECT pg_sleep(20);")
    with reader(environment.dsn) as took:
        run = migrate()
    assert run.status == RunStatus.FAILED
    assert "given up, because 1 session waited behind it for" in run.summary
    assert max(took) < 10
