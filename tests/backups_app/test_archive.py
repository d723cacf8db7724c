"""The stored form of an archive: what goes in comes out, and every change of a bit is found."""

from __future__ import annotations

import os
import random
import subprocess
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backups_app.archives import encryption
from backups_app.archives.archive import StoredForm, read_archive, tar_of, unpack_tar, write_archive
from backups_app.archives.encryption import new_identity, parse_recipients, public_key
from backups_app.exceptions import ArchiveCorrupt
from opsconsole.exceptions import AdapterError

IDENTITY, OTHER = new_identity(), new_identity()
PUBLIC = public_key(IDENTITY)
FORMS = {
    "plain": StoredForm(level=0),
    "zstd": StoredForm(level=3),
    "age": StoredForm(level=0, recipients=(PUBLIC,)),
    "zstd+age": StoredForm(level=1, recipients=(PUBLIC, public_key(OTHER))),
}
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())


class Kept:
    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> None:
        self.data += data


def write(raw: list[bytes], form: StoredForm):
    kept = Kept()
    written = write_archive(raw, form, kept, lambda _: None)
    return bytes(kept.data), written


def read(data: bytes, form: StoredForm, sha256: str, identities=(IDENTITY,)) -> bytes:
    kept = Kept()
    chunks = (data[start : start + 4096] for start in range(0, len(data), 4096))
    read_archive(chunks, form, kept, sha256=sha256, identities=identities)
    return bytes(kept.data)


@every_form
@settings(max_examples=30)
@given(raw=st.lists(st.binary(min_size=1, max_size=20_000), min_size=1, max_size=8))
def test_what_is_stored_is_read_back(form, raw):
    data, written = write(raw, form)
    assert read(data, form, written.sha256) == b"".join(raw)
    assert (written.raw_bytes, written.size_bytes) == (len(b"".join(raw)), len(data))
    assert StoredForm.from_manifest(form.as_dict()) == form


@every_form
def test_every_flipped_bit_truncation_and_exchange_is_found(form):
    data, written = write([os.urandom(3000) + b"row\n" * 30_000 for _ in range(3)], form)
    chance = random.Random(42)
    for _attempt in range(300):
        changed = bytearray(data)
        changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        with pytest.raises(ArchiveCorrupt, match="its checksum is not the recorded one"):
            read(bytes(changed), form, written.sha256)
    for length in (0, 1, len(data) // 2, len(data) - 1):
        with pytest.raises(ArchiveCorrupt):
            read(data[:length], form, written.sha256)
    other, _ = write([b"another archive"], form)
    with pytest.raises(ArchiveCorrupt):
        read(other, form, written.sha256)
    with pytest.raises(ArchiveCorrupt):
        read(data + b"x", form, written.sha256)


@every_form
def test_what_the_source_raises_comes_out_as_it_is(form):
    def failing():
        yield b"x" * 100_000
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        write_archive(failing(), form, Kept(), lambda _: None)


@every_form
def test_tool_that_ends_early_is_not_taken_for_corruption(form):
    class Gone:
        def write(self, _data: bytes) -> None:
            raise BrokenPipeError

    data, written = write([b"x" * 100_000], form)
    with pytest.raises(BrokenPipeError):
        read_archive(iter([data]), form, Gone(), sha256=written.sha256, identities=[IDENTITY])
    with pytest.raises(ArchiveCorrupt):
        read_archive(iter([data]), form, Gone(), sha256="0" * 64, identities=[IDENTITY])


def test_nothing_from_the_tool_is_no_backup():
    with pytest.raises(AdapterError, match="pg_dump printed nothing"):
        write([], FORMS["zstd"])


@pytest.mark.needs_age
def test_stream_opens_with_the_age_and_zstd_tools_alone(tmp_path):
    data, _written = write([b"hello\n" * 1000], FORMS["zstd+age"])
    (tmp_path / "a.dump.zst.age").write_bytes(data)
    (tmp_path / "key").write_text(IDENTITY)
    opened = subprocess.run(
        "age -d -i key a.dump.zst.age | zstd -d", shell=True, cwd=tmp_path, capture_output=True
    )
    assert opened.stdout == b"hello\n" * 1000


def test_key_that_does_not_fit_is_named():
    data, written = write([b"x"], FORMS["age"])
    with pytest.raises(AdapterError, match="none of the console's backup keys opens it"):
        read(data, FORMS["age"], written.sha256, [OTHER])


def test_recipients_are_read_line_by_line():
    text = f"# the team\n{PUBLIC}  # ops\n\n{PUBLIC}\n"
    assert parse_recipients(text) == [PUBLIC]
    assert parse_recipients("") == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (IDENTITY, "line 1 is a secret key"),
        (f"{PUBLIC}\nage1nonsense", "line 2 is not an age public key"),
        ("ssh-ed25519 AAAA", "line 1 is not an age public key"),
    ],
    ids=["secret key", "no key", "no ssh key"],
)
def test_bad_recipient_is_named_by_its_line(text, said):
    with pytest.raises(AdapterError, match=said):
        parse_recipients(text)


def test_bad_backup_key_is_named_without_being_shown():
    with pytest.raises(AdapterError) as error:
        encryption.public_key("AGE-SECRET-KEY-1NOT")
    assert str(error.value) == "the console's backup key is not an age secret key"


def test_folder_goes_through_a_tar_stream_unchanged(tmp_path):
    source, destination = tmp_path / "from", tmp_path / "to"
    source.mkdir()
    destination.mkdir()
    contents = {"toc.dat": b"toc", "1.dat": os.urandom(100_000), "empty.dat": b""}
    for name, data in contents.items():
        (source / name).write_bytes(data)
    data, written = write(list(tar_of(source)), FORMS["zstd+age"])
    assert written.raw_bytes % 512 == 0

    unpack_tar(
        lambda taker: read_archive(
            iter([data]), FORMS["zstd+age"], taker, sha256=written.sha256, identities=[IDENTITY]
        ),
        destination,
    )
    assert {p.name: p.read_bytes() for p in destination.iterdir()} == contents


def test_tar_is_fed_on_the_callers_thread_which_has_connections_of_its_own(tmp_path):
    fed_on = []

    def feed(taker):
        fed_on.append(threading.current_thread())
        taker.write(b"\0" * 1024)

    unpack_tar(feed, tmp_path)
    assert fed_on == [threading.current_thread()]


def test_corrupt_tar_is_named_as_corrupt_and_not_as_a_bad_tar(tmp_path):
    with pytest.raises(ArchiveCorrupt):
        unpack_tar(
            lambda taker: read_archive(iter([b"junk"]), FORMS["plain"], taker, sha256="0" * 64),
            tmp_path,
        )


def test_tar_that_leads_out_of_its_folder_is_refused(tmp_path):
    import io
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("../escaped")
        archive.addfile(info, io.BytesIO(b""))
    (tmp_path / "in").mkdir()
    with pytest.raises(AdapterError, match="cannot unpack"):
        unpack_tar(lambda taker: taker.write(buffer.getvalue()), tmp_path / "in")
    assert not (tmp_path / "escaped").exists()
