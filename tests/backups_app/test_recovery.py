"""docs/recovery.md, followed by a script that has only a shell, age, zstd, tar and PostgreSQL's tools."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import psycopg
import pytest
from django.conf import settings as django_settings
from django.core.management import call_command

from backups_app.archives.encryption import new_identity, public_key
from backups_app.models import Backup
from opsconsole.access.models import Membership
from opsconsole.events.models import AuditEvent
from opsconsole.exceptions import Kind, Refused
from opsconsole.runs.choices import RunStatus
from opsconsole.targets import ddl_log
from opsconsole.targets.content import read_tables
from opsconsole.targets.tools import find_tools
from tests.conftest import superuser
from tests.worker import recovery_kit

pytestmark = pytest.mark.usefixtures("transactional_db")
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "recovery.md"
SHELL_TOOLS = (
    "sh",
    "age",
    "zstd",
    "tar",
    "sed",
    "cut",
    "cat",
    "sort",
    "paste",
    "mktemp",
    "rm",
    "diff",
    "sha256sum",
)


def blocks() -> str:
    """The document's shell blocks, in order."""
    return "\n".join(re.findall(r"^```sh\n(.*?)^```", DOCUMENT.read_text(), re.S | re.M))


@pytest.fixture
def machine(tmp_path):
    """A folder of tools and nothing else; `follow(archive, key)` runs the document there."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in SHELL_TOOLS:
        (tools / name).symlink_to(shutil.which(name))
    for name in ("createdb", "psql", "pg_restore"):
        folder = max(
            (t for t in find_tools(django_settings.PG_TOOLS_FOLDERS)), key=lambda t: t.major
        ).folder
        (tools / name).symlink_to(folder / name)
    home = tmp_path / "elsewhere"
    home.mkdir()

    def follow(archive: Path, dsn: str, database: str, key: str) -> str:
        info = psycopg.conninfo.conninfo_to_dict(dsn)
        (home / "key").write_text(key)
        script = f"A={archive}\nDB={database}\nKEY={home}/key\n{blocks()}"
        done = subprocess.run(
            [tools / "sh", "-eu", "-c", script],
            cwd=home,
            capture_output=True,
            text=True,
            env={
                "PATH": str(tools),
                "PGHOST": info["host"],
                "PGUSER": info["user"],
                "PGPASSWORD": info["password"],
                "TMPDIR": str(home),
            },
        )
        return done.stdout + done.stderr

    return follow


@pytest.mark.needs_age
@pytest.mark.parametrize(
    "policy",
    [
        {},
        {"level": 0},
        {"format": "directory", "jobs": 2},
        {"format": "directory", "recipients": True},
        {"recipients": True, "level": 9},
    ],
    ids=["zstd", "plain", "directory", "directory encrypted", "encrypted"],
)
def test_document_brings_the_database_back_hash_equal(
    run_backup, set_policy, environment, target, machine, policy, tmp_path
):
    team = new_identity()
    set_policy(**policy | ({"recipients": public_key(team)} if policy.get("recipients") else {}))
    target.execute('CREATE TABLE "Óddé name" (a text); INSERT INTO "Óddé name" VALUES (\'é\')')
    with superuser(target.info.dbname) as connection:
        connection.execute(ddl_log.install_sql(target.info.user))
    run = run_backup()
    assert run.status == RunStatus.SUCCEEDED, run.summary
    backup = Backup.objects.get(run=run)
    elsewhere = tmp_path / "fetched"
    shutil.copytree((Path(django_settings.BACKUPS_FOLDER) / backup.key).parent, elsewhere)
    database = f"{target.info.dbname}_restored"

    said = machine(elsewhere / Path(backup.key).name, environment.dsn, database, team)

    assert said.splitlines() == ["whole", "equal"], said
    with psycopg.connect(environment.dsn, dbname=database) as connection:
        assert read_tables(connection) == backup.manifest["content"]["tables"]


@pytest.mark.needs_age
def test_document_names_a_corrupt_archive_and_another_content(
    backup, environment, target, machine, tmp_path
):
    elsewhere = tmp_path / "fetched"
    shutil.copytree((Path(django_settings.BACKUPS_FOLDER) / backup.key).parent, elsewhere)
    archive = elsewhere / Path(backup.key).name
    manifest = archive.with_name(archive.name + ".json")
    manifest.write_text(manifest.read_text().replace('"rows": 1000', '"rows": 999'))
    said = machine(archive, environment.dsn, f"{target.info.dbname}_restored", "")
    assert "equal" not in said.splitlines()
    os.truncate(archive, archive.stat().st_size - 1)
    assert "CORRUPT" in machine(archive, environment.dsn, f"{target.info.dbname}_again", "")


def test_kit_names_archives_places_and_keys(run_backup, set_policy, environment, admin, settings):
    team = new_identity()
    set_policy(recipients=public_key(team))
    backup = Backup.objects.get(run=run_backup())

    kit = recovery_kit(actor=admin, environment=environment, with_key=False)

    assert backup.sha256 in kit
    assert f"file://{settings.BACKUPS_FOLDER} {backup.key}" in kit
    assert f"the secret key of {public_key(team)}" in kit
    assert settings.BACKUP_IDENTITIES[0] not in kit
    with_key = recovery_kit(actor=admin, environment=environment, with_key=True)
    assert settings.BACKUP_IDENTITIES[0] in with_key
    assert AuditEvent.objects.filter(action="recovery_kit.printed").count() == 2


def test_kit_without_a_proven_backup_or_the_right_is_refused(environment, admin, operator):
    with pytest.raises(Refused, match="no backup of Shop staging is proven"):
        recovery_kit(actor=admin, environment=environment, with_key=False)
    with pytest.raises(Refused) as refusal:
        recovery_kit(actor=operator, environment=environment, with_key=True)
    assert refusal.value.kind is Kind.FORBIDDEN


@pytest.mark.parametrize(("with_key", "kind"), [(False, Kind.CONFLICT), (True, Kind.FORBIDDEN)])
def test_kit_with_keys_of_the_whole_console_takes_its_admin(environment, person, with_key, kind):
    scoped = person("viewer")
    Membership.objects.create(user=scoped, role="admin", environment=environment)
    with pytest.raises(Refused) as refusal:
        recovery_kit(actor=scoped, environment=environment, with_key=with_key)
    assert refusal.value.kind is kind


def test_kit_is_printed_by_a_command(backup, environment, admin, capsys):
    with pytest.raises(SystemExit) as end:
        call_command("ops", "recovery-kit", "shop/staging", "--as", admin.username)
    assert end.value.code == 0
    assert backup.sha256 in capsys.readouterr().out
