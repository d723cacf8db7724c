"""Archives made elsewhere: every packing of a good one, and each way that a bad one ends."""

from __future__ import annotations

import gzip
import io
import re
import subprocess
import tarfile
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
import zstandard
from django.conf import settings
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from backups_app import services
from backups_app.alarms import alarms_of
from backups_app.archives import foreign
from backups_app.archives.encryption import encrypt, new_identity, public_key
from backups_app.choices import ProofLevel
from backups_app.models import Backup, Storage
from backups_app.services.policies import decide_for
from opsconsole.access.models import Membership, User
from opsconsole.exceptions import Kind, Refused
from opsconsole.runs.choices import RunKind, RunStatus
from opsconsole.runs.models import Run
from opsconsole.targets.content import read_tables
from opsconsole.targets.tools import choose_tools, find_tools
from tests.backups_app.conftest import execute, lose, restore
from tests.worker import backup_identities

pytestmark = pytest.mark.usefixtures("transactional_db", "quarantine")


def dumped(dsn: str, *arguments: str) -> bytes:
    tools = choose_tools(find_tools(), server_major=18, is_local=True)
    return subprocess.run(
        [tools.pg_dump, "--dbname", dsn, *arguments], check=True, capture_output=True
    ).stdout


def aged(data: bytes, recipient: str) -> bytes:
    sink = io.BytesIO()
    encrypt(iter([data]), sink, [recipient])
    return sink.getvalue()


def tar_of_folder(dsn: str, folder: Path, mode: str = "w") -> bytes:
    """What people make of `pg_dump -Fd`: a tar file of the folder, with its name."""
    dumped(dsn, "--format=directory", f"--file={folder}")
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode=mode) as archive:
        archive.add(folder, arcname=f"nightly/{folder.name}")
    return sink.getvalue()


PACKINGS: dict[str, Callable[[str, Path], bytes]] = {
    "custom": lambda dsn, _folder: dumped(dsn, "--format=custom"),
    "custom.gz": lambda dsn, _folder: gzip.compress(dumped(dsn, "--format=custom")),
    "custom.zst": lambda dsn, _folder: zstandard.compress(dumped(dsn, "-Fc", "-Z0")),
    "custom.zst.age": lambda dsn, _folder: aged(
        zstandard.compress(dumped(dsn, "-Fc")), public_key(backup_identities()[0])
    ),
    "directory.tar": tar_of_folder,
    "directory.tgz": lambda dsn, folder: tar_of_folder(dsn, folder, "w:gz"),
}


@pytest.fixture
def upload(environment, admin):
    def run(data: bytes, name: str = "shop.dump", key: str = "") -> Run:
        return services.import_upload(
            actor=admin,
            target=environment.targets.get(),
            name=name,
            chunks=[data],
            idempotency_key=key or uuid.uuid4().hex,
        )

    return run


@pytest.fixture
def custom(environment) -> bytes:
    return dumped(environment.dsn, "--format=custom")


def uploads_left() -> list[Path]:
    return [path for path in Path(settings.BACKUPS_FOLDER, "incoming").glob("*") if path.is_file()]


def archives_left() -> list[str]:
    return sorted(path.name for path in Path(settings.BACKUPS_FOLDER).rglob("*") if path.is_file())


@pytest.mark.parametrize("packing", list(PACKINGS))
def test_imported_archive_is_restored_and_counted_and_can_then_be_restored(
    packing, upload, environment, operator, target, tmp_path
):
    target.execute(
        "CREATE TABLE kept AS SELECT n, md5(n::text) AS t FROM generate_series(1, 500) n"
    )
    run = execute(upload(PACKINGS[packing](environment.dsn, tmp_path / "dump"), f"shop.{packing}"))
    assert run.status == RunStatus.SUCCEEDED, run.summary
    backup = Backup.objects.get()
    assert (backup.proof, backup.is_imported) == (ProofLevel.RESTORED, True)
    assert backup.tables == read_tables(target)
    assert backup.manifest["imported"]["from"] == f"shop.{packing}"
    assert uploads_left() == []

    name = f"{target.info.dbname}_i"
    done = restore(
        operator, backup, environment, new_database=name, typed_name="", trusts_source=True
    )
    assert done.status == RunStatus.SUCCEEDED, done.summary
    with psycopg.connect(environment.dsn, dbname=name) as connection:
        assert read_tables(connection) == backup.tables


def link_in_tar(_custom: bytes) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        link = tarfile.TarInfo("dump/toc.dat")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return sink.getvalue()


def tar_with(*names: str) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return sink.getvalue()


BAD = {
    "plain SQL, compressed": (lambda _c: gzip.compress(b"DROP TABLE x;"), "Plain SQL is never run"),
    "half of it": (lambda c: c[: len(c) // 2], "Prove failed|Import failed"),
    "half of a gzip file": (lambda c: gzip.compress(c)[:500], "does not unpack"),
    "half of a zstd file": (lambda c: zstandard.compress(c)[:500], "Import failed"),
    "another's key": (lambda c: aged(c, public_key(new_identity())), "none of the console's"),
    "a link": (link_in_tar, "has no place in a directory archive"),
    "two files of one name": (lambda _c: tar_with("a/toc.dat", "b/toc.dat"), "has no place"),
    "a folder without a list": (lambda _c: tar_with("dump/1.dat"), "Plain SQL is never run"),
    "an archive of -Ft": (lambda _c: tar_with("toc.dat", "restore.sql"), "pg_dump -Ft"),
    "packed without end": (
        lambda c: gzip.compress(gzip.compress(gzip.compress(gzip.compress(c)))),
        "too many nested layers",
    ),
}


@pytest.mark.parametrize("what", list(BAD))
def test_what_is_no_archive_is_refused_and_leaves_nothing(what, upload, custom):
    make, why = BAD[what]
    run = execute(upload(make(custom)))
    assert run.status == RunStatus.FAILED
    assert any(part in run.summary for part in why.split("|")), run.summary
    assert not Backup.objects.filter(proof__gte=ProofLevel.RESTORED).exists()
    assert uploads_left() == []
    if not Backup.objects.exists():
        assert archives_left() == []


def test_plain_sql_is_refused_before_it_is_kept(upload):
    with pytest.raises(Refused, match="Plain SQL is never run") as refused:
        upload(b"CREATE TABLE x (y int);\n" * 50)
    assert refused.value.kind is Kind.INVALID
    assert archives_left() == []
    assert not Run.objects.exists()


def test_archive_that_fills_the_disk_is_stopped(upload, custom, monkeypatch):
    monkeypatch.setattr(foreign, "RESERVE_BYTES", 2**60)
    run = execute(upload(gzip.compress(custom)))
    assert "the temporary folder is full" in run.summary
    assert archives_left() == []


def test_archive_that_does_not_restore_stays_in_quarantine(
    upload, environment, operator, target, as_role
):
    target.execute("CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (id int)")
    target.execute("INSERT INTO child VALUES (7)")
    target.execute(
        "ALTER TABLE child ADD CONSTRAINT odd FOREIGN KEY (id) REFERENCES parent NOT VALID"
    )
    archive = dumped(environment.dsn, "--format=custom")
    broken = archive.replace(b"NOT VALID", b"         ")
    assert broken != archive
    run = execute(upload(broken))
    assert run.status == RunStatus.FAILED
    assert "stays in quarantine" in run.summary
    backup = Backup.objects.get()
    assert (backup.proof, backup.rows) == (ProofLevel.CHECKSUM, 0)
    with pytest.raises(Refused, match="never proven"):
        restore(operator, backup, environment, trusts_source=True)
    page = as_role("admin").get(backup.get_absolute_url())
    assert "In quarantine: prove it" in page.text
    assert "Not known before it was restored once." in page.text


def test_imported_backup_does_not_count_as_one_of_the_environment(
    upload, custom, environment, set_policy
):
    set_policy(alarm_hours=1)
    environment.created_at = timezone.now() - timedelta(hours=2)
    execute(upload(custom))
    assert Backup.objects.get().proof == ProofLevel.RESTORED
    assert not Backup.objects.proven().exists()
    assert (
        "No backup is proven"
        in alarms_of([environment.targets.get()])[environment.targets.get().pk][0]
    )
    assert [(d.keeps, d.why) for d in decide_for(environment.targets.get())] == [
        (True, "no backup is proven")
    ]


def test_lost_import_leaves_no_upload(upload, custom):
    run = upload(custom)
    assert len(uploads_left()) == 1
    assert lose(run).status == RunStatus.FAILED
    assert uploads_left() == []


def test_same_form_twice_keeps_one_upload_and_makes_one_run(upload, custom):
    first, second = (upload(custom, key="k" * 32) for _ in range(2))
    assert first == second
    assert len(uploads_left()) == 1


def test_archive_in_a_storage_is_imported_and_stays_there(environment, admin, custom, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "shop.dump").write_bytes(custom)
    storage = Storage.objects.create(
        name="Elsewhere", url=f"file://{tmp_path}/elsewhere", is_shared=True
    )
    more = {"actor": admin, "target": environment.targets.get(), "storage": storage}
    run = execute(
        services.import_from_storage(key="shop.dump", idempotency_key=uuid.uuid4().hex, **more)
    )
    assert run.status == RunStatus.SUCCEEDED, run.summary
    assert (tmp_path / "elsewhere" / "shop.dump").exists()
    with pytest.raises(Refused, match="restore it instead"):
        services.import_from_storage(
            key=Backup.objects.get().key, idempotency_key=uuid.uuid4().hex, **more
        )


SPELLINGS = ["./{}", "{}/", "nope/../{}", "/{}", "nope//{}", "{}\\"]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_other_spelling_of_a_key_is_refused_in_the_form(
    backup, environment, as_role, admin, spelling
):
    path = spelling.format(backup.key)
    answer = as_role("admin").post(
        reverse("backup-import", args=["shop", "staging"]),
        {"reason": "x", "storage": Storage.objects.builtin().pk, "path": path},
    )
    assert answer.status_code == 422
    assert re.search("A path has no|Write the folders", answer.text)
    with pytest.raises(Refused) as refusal:
        services.import_from_storage(
            actor=admin,
            target=environment.targets.get(),
            storage=Storage.objects.builtin(),
            key=path,
            idempotency_key="k" * 32,
        )
    assert (refusal.value.kind, refusal.value.field) == (Kind.INVALID, "path")
    assert not Run.objects.filter(kind=RunKind.IMPORT).exists()


def test_page_imports_an_upload_and_keeps_the_form_when_it_is_refused(environment, as_role, custom):
    path = reverse("backup-import", args=["shop", "staging"])
    client = as_role("admin")
    assert "never run" in client.get(path).text
    neither = client.post(path, {"reason": "test"})
    assert neither.status_code == 422
    assert "one of the two" in neither.text
    nowhere = client.post(path, {"reason": "test", "path": "x.dump"})
    assert "in which storage" in nowhere.text
    file = SimpleUploadedFile("shop.dump", custom)
    done = client.post(path, {"reason": "test", "file": file})
    assert done.status_code == 302
    run = Run.objects.get(kind=RunKind.IMPORT)
    assert done.url == run.get_absolute_url()
    assert run.title == "Import a backup of staging"
    assert execute(run).status == RunStatus.SUCCEEDED
    assert "Imported by admin-" in client.get(Backup.objects.get().get_absolute_url()).text


# -- archives of another environment


@pytest.fixture
def elsewhere(make_environment, set_quarantine):
    """Another environment, whose admin only looks at the one that the backup is of."""
    made = make_environment("development", position=2)
    set_quarantine(made)
    made.its_admin = User.objects.create_user("its-admin", password="pw")
    Membership.objects.create(user=made.its_admin, role="admin", environment=made)
    Membership.objects.create(user=made.its_admin, role="viewer")
    return made


def import_into(environment, actor, storage: Storage, key: str) -> Run:
    return services.import_from_storage(
        actor=actor,
        target=environment.targets.get(),
        storage=storage,
        key=key,
        idempotency_key=uuid.uuid4().hex,
    )


def linked(path: Path, link: Path) -> Path:
    link.symlink_to(path)
    return link


WAYS: dict[str, Callable[[Path, str], tuple[str, str]]] = {
    "its own key": lambda _root, key: ("", key),
    "another case": lambda _root, key: ("", key.upper()),
    "an object that no row lists": lambda _root, key: ("", f"{Path(key).parent}/old.dump"),
    "a storage above": lambda root, key: (f"file://{root.parent}", f"{root.name}/{key}"),
    "a storage below": lambda root, key: (f"file://{root}/shop", key.partition("/")[2]),
    "a linked folder": lambda root, key: (f"file://{linked(root, root.with_name('link'))}", key),
    "a linked file": lambda root, key: ("", linked(root / key, root / "mine.dump").name),
}


@pytest.mark.parametrize("way", list(WAYS))
def test_archive_of_another_environment_is_not_imported_without_its_admin(
    way, backup, elsewhere, settings, admin
):
    url, key = WAYS[way](Path(settings.BACKUPS_FOLDER), backup.key)
    storage = (
        Storage.objects.create(name="X", url=url, is_shared=True)
        if url
        else Storage.objects.builtin()
    )
    with pytest.raises(Refused, match="Only an admin of Shop staging may take it out") as refusal:
        import_into(elsewhere, elsewhere.its_admin, storage, key)
    assert refusal.value.kind is Kind.FORBIDDEN
    if key == backup.key:
        with pytest.raises(Refused, match="restore it instead"):
            import_into(elsewhere, admin, storage, key)
    else:
        assert import_into(elsewhere, admin, storage, key).kind == RunKind.IMPORT


@pytest.mark.parametrize("path", ["console/{}", "Console/{}"])
def test_archive_is_found_in_a_bucket_through_another_storage(
    path, bucket, run_backup, set_policy, elsewhere
):
    set_policy(storage=bucket.storage)
    key = Backup.objects.get(run=run_backup()).key
    whole = Storage.objects.create(
        name="Whole", url="s3://bucket?endpoint=http://other:9000", is_shared=True
    )
    with pytest.raises(Refused, match="admin of Shop staging"):
        import_into(elsewhere, elsewhere.its_admin, whole, path.format(key))


def test_bytes_of_another_environment_s_backup_are_not_imported(
    backup, elsewhere, settings, tmp_path, admin
):
    data = Path(settings.BACKUPS_FOLDER, backup.key).read_bytes()
    (tmp_path / "drop").mkdir()
    (tmp_path / "drop" / "a.dump").write_bytes(data)
    storage = Storage.objects.create(name="Drop", url=f"file://{tmp_path}/drop", is_shared=True)
    uploaded = execute(
        services.import_upload(
            actor=elsewhere.its_admin,
            target=elsewhere.targets.get(),
            name="a.dump",
            chunks=[data],
            idempotency_key=uuid.uuid4().hex,
        )
    )
    named = execute(import_into(elsewhere, elsewhere.its_admin, storage, "a.dump"))
    for run in (uploaded, named):
        assert run.status == RunStatus.FAILED
        assert "Only an admin of Shop staging may take it out" in run.summary
    assert list(Backup.objects.all()) == [backup]
    run = execute(import_into(elsewhere, admin, storage, "a.dump"))
    assert run.status == RunStatus.SUCCEEDED, run.summary


def test_consent_that_was_taken_back_is_asked_for_again_by_the_worker(
    backup, elsewhere, settings, person
):
    Path(settings.BACKUPS_FOLDER, "shop/staging/old.dump").write_bytes(b"PGDMP")
    both = person("admin", "both")
    run = import_into(elsewhere, both, Storage.objects.builtin(), "shop/staging/old.dump")
    both.memberships.update(environment=elsewhere)
    assert "Only an admin of Shop staging" in execute(run).summary


def test_page_names_whose_consent_is_missing(backup, elsewhere):
    client = Client()
    client.force_login(elsewhere.its_admin)
    answer = client.post(
        reverse("backup-import", args=["shop", "development"]),
        {"reason": "x", "storage": Storage.objects.builtin().pk, "path": backup.key},
    )
    assert answer.status_code == 403
    assert "Only an admin of Shop staging may take it out" in answer.text
    assert 'name="path"' in answer.text


def test_upload_of_another_import_is_not_taken(environment, admin, upload, custom):
    upload(custom)
    with pytest.raises(Refused, match="for an import of its own"):
        import_into(
            environment, admin, Storage.objects.builtin(), f"incoming/{uploads_left()[0].name}"
        )


@pytest.mark.parametrize("role", ["operator", "reviewer", "viewer"])
def test_only_an_admin_imports(environment, as_role, role):
    path = reverse("backup-import", args=["shop", "staging"])
    assert as_role(role).get(path).status_code == 403
    assert as_role(role).post(path, {"reason": "x"}).status_code == 403
