"""What is found in a pending migration, how risky it is, and what people decide about it."""

from __future__ import annotations

import psycopg
import pytest

from migrations_app.assess.effects import functions_called
from migrations_app.assess.lint import RULES, Assessment, Level, assess
from migrations_app.engines.kinds import MigrationScript
from migrations_app.engines.statements import is_one_transaction, split_statements
from migrations_app.models import Waiver
from migrations_app.services import findings
from migrations_app.services.migrations import current_plan
from opsconsole.events.models import AuditEvent
from opsconsole.exceptions import Kind, Refused
from opsconsole.targets.relations import read_catalogue
from tests.worker import observe_target

BIG = """
CREATE TABLE big (id int, note text, code varchar(10));
INSERT INTO big SELECT n, repeat('x', 1000), 'c' FROM generate_series(1, 11000) n;
CREATE TABLE small (id int, note text);
INSERT INTO small VALUES (1, 'x');
ANALYZE;
"""


@pytest.fixture
def assessed(database):
    """`assessed(*sql)` assesses scripts, in that order, against a small and a 12 MB table."""
    with psycopg.connect(database(), autocommit=True) as connection:
        connection.execute(BIG)

        def make(*texts: str, is_protected: bool = False) -> list[Assessment]:
            scripts = [script(f"{number}_m", text) for number, text in enumerate(texts)]
            called = set().union(*(functions_called(text) for text in texts))
            catalogue = read_catalogue(connection, called)
            return list(assess(scripts, catalogue, "public", is_protected=is_protected).values())

        yield make


def script(name: str, sql: str) -> MigrationScript:
    statements = split_statements(sql)
    is_atomic = is_one_transaction(statements)
    return MigrationScript(name, f"{name}/migration.sql", sql, name, statements, is_atomic)


def rules(found: Assessment) -> list[tuple[int, str]]:
    return [(f.line, f.rule) for f in found.findings if RULES[f.rule] is not Level.OFF]


@pytest.mark.parametrize(
    ("sql", "protected", "risk"),
    [
        ("CREATE TABLE made (id int); CREATE INDEX made_id ON made (id)", True, "low"),
        ("ALTER TABLE small ADD COLUMN added int", True, "low"),
        ("CREATE INDEX by_id ON small (id)", True, "low"),
        ("CREATE INDEX by_id ON big (id)", True, "medium"),
        ("CREATE INDEX CONCURRENTLY by_id ON big (id)", True, "low"),
        ("UPDATE big SET note = 'y' WHERE id > 5", False, "medium"),
        ("ALTER TABLE small DROP COLUMN note", False, "medium"),
        ("ALTER TABLE small DROP COLUMN note", True, "high"),
        ("ALTER TABLE small RENAME TO smaller", True, "high"),
        ("DO $$ BEGIN NULL; END $$", False, "medium"),
    ],
)
def test_risk_follows_statement_size_and_environment(assessed, sql, protected, risk):
    assert assessed(sql, is_protected=protected)[0].risk == risk


def test_a_lock_taken_before_long_work_in_one_transaction_is_found_at_the_work(assessed):
    together, apart = assessed(
        "ALTER TABLE small ADD COLUMN a int;\nUPDATE big SET code = 'd';",
        "BEGIN; ALTER TABLE small ADD COLUMN b int; COMMIT;\nUPDATE big SET code = 'd';",
    )
    assert (2, "blocks-while-working") in rules(together)
    assert (2, "blocks-while-working") not in rules(apart)


def test_findings_stand_at_the_statement_that_they_are_about(assessed):
    found = assessed(
        "-- a comment\nCREATE TABLE made (id int);\n\nCREATE INDEX on_made ON made (id);\n"
        "ALTER TABLE small\n  ADD CONSTRAINT f FOREIGN KEY (id)\n    REFERENCES made (id);\n"
        "CREATE INDEX on_big\n  ON big (id);\nDROP TABLE small;"
    )[0]
    assert rules(found) == [
        (5, "adding-foreign-key-constraint"),
        (8, "blocks-while-working"),
        (8, "require-concurrent-index-creation"),
        (10, "breaks-application"),
        (10, "destroys-data"),
    ]


def test_a_table_of_an_earlier_pending_migration_is_nobodys_concern_yet(assessed):
    _first, second = assessed(
        "CREATE TABLE made (id int)", "CREATE INDEX on_made ON made (id); DROP TABLE made"
    )
    assert (second.risk, rules(second)) == ("low", [])


def test_a_renamed_table_is_known_under_its_new_name(assessed):
    _first, second = assessed("ALTER TABLE big RENAME TO huge", "CREATE INDEX i ON huge (id)")
    assert second.risk == "medium"


def test_a_script_that_the_parser_rejects_is_opaque_and_says_so(assessed):
    found = assessed("ALTER TABEL small ADD x int;\nDROP TABLE small")[0]
    assert found.risk == "medium"
    assert (1, "syntax-error") in rules(found)


DROP = "ALTER TABLE users DROP COLUMN name;"


@pytest.fixture
def dropping(environment, folder):
    """The environment with a pending migration that drops a column."""
    folder.add("20990101000000_drop_name", DROP)
    observe_target(environment.targets.get())
    return environment


def block(environment, admin) -> None:
    findings.set_levels(
        actor=admin, application=environment.application, levels={"destroys-data": "block"}
    )


def test_blocking_finding_stops_the_plan_until_it_is_waived(dropping, admin, person):
    block(dropping, admin)
    with pytest.raises(Refused, match=r"20990101000000_drop_name line 1: Destroys the values"):
        current_plan(dropping.targets.get())

    findings.waive_finding(
        actor=person("reviewer"),
        target=dropping.targets.get(),
        migration="20990101000000_drop_name",
        rule="destroys-data",
        reason="nobody reads it since May",
    )
    plan, _state = current_plan(dropping.targets.get())
    assert plan.names == ["20990101000000_drop_name"]
    event = AuditEvent.objects.get(action="finding.waived")
    assert (event.reason, event.details["rule"]) == ("nobody reads it since May", "destroys-data")


def test_waiver_does_not_hold_for_an_edited_text(dropping, admin, folder):
    block(dropping, admin)
    findings.waive_finding(
        actor=admin,
        target=dropping.targets.get(),
        migration="20990101000000_drop_name",
        rule="destroys-data",
        reason="old text",
    )
    file = folder.path / "20990101000000_drop_name" / "migration.sql"
    file.write_text(DROP + " -- edited")
    observe_target(dropping.targets.get())
    with pytest.raises(Refused, match="Destroys the values"):
        current_plan(dropping.targets.get())


def test_withdrawn_waiver_lets_its_finding_stand_again(dropping, admin):
    block(dropping, admin)
    waiver = findings.waive_finding(
        actor=admin,
        target=dropping.targets.get(),
        migration="20990101000000_drop_name",
        rule="destroys-data",
        reason="old text",
    )
    findings.withdraw_waiver(actor=admin, environment=dropping, waiver=waiver)
    assert Waiver.objects.count() == 0
    with pytest.raises(Refused, match="Destroys the values"):
        current_plan(dropping.targets.get())


def test_operator_may_not_waive(dropping, operator):
    with pytest.raises(Refused) as refused:
        findings.waive_finding(
            actor=operator,
            target=dropping.targets.get(),
            migration="20990101000000_drop_name",
            rule="destroys-data",
            reason="please",
        )
    assert refused.value.kind is Kind.FORBIDDEN


@pytest.mark.parametrize(
    ("rule", "reason", "kind"),
    [
        ("destroys-data", " ", Kind.INVALID),
        ("no-such-rule", "why", Kind.NOT_FOUND),
    ],
)
def test_waiver_needs_a_reason_and_a_finding(dropping, admin, rule, reason, kind):
    with pytest.raises(Refused) as refused:
        findings.waive_finding(
            actor=admin,
            target=dropping.targets.get(),
            migration="20990101000000_drop_name",
            rule=rule,
            reason=reason,
        )
    assert refused.value.kind is kind


def test_unknown_rule_or_level_changes_nothing(environment, admin):
    with pytest.raises(Refused, match="destroys-data: maybe"):
        findings.set_levels(
            actor=admin,
            application=environment.application,
            levels={"destroys-data": "maybe", "breaks-application": "off"},
        )
    assert findings.levels_of(environment.application) == RULES


def test_missing_linter_is_said_and_stops_nothing(environment, folder, monkeypatch):
    monkeypatch.setattr("migrations_app.assess.lint.TOOL", "/nowhere/squawk")
    folder.add("20990101000000_odd", "ALTER TABLE users ADD COLUMN only_here_once int;")
    state = observe_target(environment.targets.get())
    assert "squawk could not be run" in state.data["lint_problem"]
    assert current_plan(environment.targets.get())[0].names == ["20990101000000_odd"]
