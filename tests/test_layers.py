"""Nothing looks upward by another way than an import, which import-linter sees."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
from celery import current_app
from django.core.management import get_commands

from opsconsole.project.celery import TASK_PACKAGES

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("opsconsole", "backups_app", "migrations_app")
# The composition root knows everything; these are below it, from the top.
PLATFORM = next(
    contract["layers"]
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    if contract.get("containers") == ["opsconsole"]
)
LAYERS = [
    ["opsconsole.project"], ["migrations_app"], ["backups_app"],
    *([f"opsconsole.{name.strip()}" for name in layer.split("|")] for layer in PLATFORM[1:]),
]  # fmt: skip
# `module: string` that names something above, and why it may.
UPWARD_STRINGS = {
    # Words that are also names of commands: a state, a direction of dbmate's, a session's name.
    "opsconsole.runs.timeline: up",
    "opsconsole.health.probes.http: up",
    "migrations_app.engines.dbmate_file: up",
    "backups_app.runs.swapping: prepare",
}
# `module.function` that imports within itself: only start-up and what need not be installed.
LAZY_IMPORTS = {
    "backups_app.apps.ready",
    "migrations_app.apps.ready",
    "opsconsole.apps.ready",
    "opsconsole.project.apps.ready",
}


def sources() -> Iterator[tuple[str, ast.Module]]:
    """Every module of the console except its migrations."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            if ".migrations." not in name:
                yield name, ast.parse(path.read_text())


def layer_of(module: str) -> int | None:
    """The number of a module's layer from the top; None where it is in none."""
    for number, layer in enumerate(LAYERS):
        if any(module == name or module.startswith(f"{name}.") for name in layer):
            return number
    return None


def things_by_name() -> dict[str, str]:
    """What a string can mean, and the module that it then names: a module, a task, a command."""
    current_app.loader.autodiscover_tasks(TASK_PACKAGES)
    tasks = {name: task.__module__ for name, task in current_app.tasks.items()}
    commands = {name: str(app) for name, app in get_commands().items() if isinstance(app, str)}
    found = tasks | commands | {name: name for name, _tree in sources()}
    return {name: module for name, module in found.items() if layer_of(module) is not None}


def meaning(text: str, things: dict[str, str]) -> str | None:
    """The module that a string names, be it by the path of something in it."""
    if text in things:
        return things[text]
    path = text.rpartition(".")[0]
    return meaning(path, things) if path.startswith(PACKAGES) else None


def strings(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_no_string_names_a_module_command_or_task_of_a_higher_layer():
    things = things_by_name()
    assert meaning("opsconsole.execute_run", things) == "opsconsole.runs.tasks"
    assert meaning("migrations_app.services.drift.request_check", things) is not None
    assert meaning("ops", things) == "opsconsole.project"
    upward = {
        f"{name}: {text}"
        for name, tree in sources()
        if (own := layer_of(name))
        for text in strings(tree)
        if (named := meaning(text, things)) and layer_of(named) < own
    }
    assert upward == UPWARD_STRINGS


def test_functions_import_only_at_start_up():
    lazy = {
        f"{name}.{function.name}"
        for name, tree in sources()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        and any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(function))
    }
    assert lazy == LAZY_IMPORTS


def test_no_files_import_each_other_in_a_circle_not_even_for_types():
    graph = grimp.build_graph("opsconsole", "backups_app", "migrations_app", cache_dir=None)
    arrows = {each: graph.find_modules_directly_imported_by(each) for each in graph.modules}
    TopologicalSorter(arrows).prepare()  # raises CycleError, which names the files
