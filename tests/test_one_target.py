"""That an environment has one target is taken for granted at the edge alone, in the places below."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from backups_app.models import BackupPolicy
from backups_app.services.policies import keep_schedules
from opsconsole.environments.models import Target
from opsconsole.environments.secrets import seal
from opsconsole.environments.services import TEST_CONNECTION
from opsconsole.health.models import HealthCheck
from opsconsole.runs.models import Run
from opsconsole.work.models import WorkItem
from tests.test_layers import sources
from tests.worker import check_environment, check_target

# What an address, a command line or a form says is an environment; what is done takes its target.
PLACES = {
    "opsconsole.environments.lookup._target",
    "opsconsole.environments.cli.target_of",
    "backups_app.forms.CheckForm",
    "backups_app.forms.RestoreForm",
    "opsconsole.project.demo._make_environment",
}
OF_MODEL = re.compile(r"\bTarget\.objects|\.targets\b")
SEVERAL = re.compile(rf"{OF_MODEL.pattern}|\btargets$|_targets\(|\btargets_for\(")
PICKS = {"get", "first", "last", "earliest", "latest", "get_or_create", "update_or_create"}
# Fields that say which target it is, whatever environment it belongs to.
OWN = {"pk", "system_identifier"}


def picks_by_environment(node: ast.AST) -> bool:
    """Whether the target of an environment is picked here, as if there were no other."""
    if isinstance(node, ast.Attribute):
        return node.attr == "target" and ast.unparse(node.value).endswith("environment")
    if isinstance(node, ast.Subscript):
        return OF_MODEL.search(ast.unparse(node.value)) is not None and not isinstance(
            node.slice, ast.Slice
        )
    if isinstance(node, ast.keyword):
        return node.arg == "to_field_name"
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        return False
    named = {keyword.arg for keyword in node.keywords}
    return (
        (node.func.attr == "of" or (node.func.attr in PICKS and not named & OWN))
        and SEVERAL.search(ast.unparse(node.func.value)) is not None
    ) or any(name and name.startswith("environment__target") for name in named)


def owners(name: str, tree: ast.AST) -> Iterator[str]:
    """The function, or the class for its fields, around each such place."""
    for node in ast.iter_child_nodes(tree):
        own = name
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            own = f"{name.partition(':')[0]}:{node.name}"
        if picks_by_environment(node):
            yield own.replace(":", ".")
        yield from owners(own, node)


SAMPLES = {
    "environment.target.latest_state": True,
    "run.environment.target": True,
    "environment.targets.get()": True,
    "environment.targets.all()[0]": True,
    "Target.objects.shown().filter(environment=e).first()": True,
    "Target.objects.of(pk=environment.pk)": True,
    "visible_targets(user).of(slug=slug)": True,
    "states.filter(environment__target=1)": True,
    "run.target.environment": False,
    "environment.targets.all()": False,
    "targets[0].environment": False,
    "Target.objects.select_related('environment').get(pk=1)": False,
    "BackupPolicy.objects.of(environment)": False,
}


@pytest.mark.parametrize(("code", "picks"), SAMPLES.items())
def test_reader_of_the_code_knows_such_a_place(code, picks):
    found = any(picks_by_environment(node) for node in ast.walk(ast.parse(code)))
    assert found == picks


def test_only_the_edge_picks_the_target_of_an_environment():
    found = {place for name, tree in sources() for place in owners(name, tree)}
    assert found == PLACES


@pytest.mark.django_db
def test_an_environment_has_no_second_target_yet(environment):
    with pytest.raises(IntegrityError, match="target_one_per_environment"), transaction.atomic():
        Target.objects.create(environment=environment, dsn_encrypted=seal("postgresql:///x"))


@pytest.fixture
def tenants(environment, database) -> list[Target]:
    """Two targets of one environment, as they will be one day."""
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("ALTER TABLE opsconsole_target DROP CONSTRAINT target_one_per_environment")
    Target.objects.create(environment=environment, dsn_encrypted=seal(database()))
    return list(environment.targets.order_by("pk"))


def test_check_over_http_is_asked_once_and_one_in_sql_of_each_target(environment, tenants):
    HealthCheck.objects.create(environment=environment, name="web", address="http://127.0.0.1:1/")
    found = {(result.check_name, result.target) for result in check_environment(environment)}
    assert found == {("web", None), *(("amounts", target) for target in tenants)}
    run = Run.objects.create(
        kind="backup", environment=environment, target=tenants[1], idempotency_key="r"
    )
    found = {
        (result.check_name, result.target)
        for result in check_target(tenants[1], run=run, phase="after")
    }
    assert found == {("web", None), ("amounts", tenants[1])}


def test_schedule_comes_due_for_each_target(environment, tenants):
    BackupPolicy.objects.of(environment).save()
    long_ago = timezone.now() - timezone.timedelta(days=9)
    BackupPolicy.objects.update(backup_cron="0 * * * *", changed_at=long_ago)
    queued = [run.target for target in tenants for run in keep_schedules(target)]
    assert queued == tenants
    assert [run for target in tenants for run in keep_schedules(target)] == []


def test_connection_test_that_waited_for_an_environment_waits_for_its_target(environment):
    target = environment.targets.get()
    WorkItem.objects.create(
        work=TEST_CONNECTION, key="k", arguments={"environment": environment.pk}
    )
    migration = import_module("opsconsole.migrations.0014_targets_first")
    for statement, arguments in (
        (migration.NAME_THE_TARGET, {"target": target.pk}),
        (migration.NAME_THE_ENVIRONMENT, {"environment": environment.pk}),
    ):
        with connection.cursor() as cursor:
            cursor.execute(statement)
        assert WorkItem.objects.get().arguments == arguments
