"""Stores: one contract, and how each of them fails."""

from __future__ import annotations

import base64
import email.utils
import errno
import hashlib
import hmac
import os
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from backups_app.stores import gateway, objects
from backups_app.stores.kinds import Address, Credentials
from backups_app.stores.local import LocalStore
from backups_app.stores.opening import open_store, require_callable, require_elsewhere
from opsconsole.exceptions import AdapterError
from opsconsole.outgoing import CallPolicy
from tests.chaos.console import free_port
from tests.contracts.store import BIG, StoreContract, get, put
from tests.https import https_in_front_of, write_certificate
from tests.s3 import scripted_s3
from tests.toolbox import azurite

KEY = Credentials("key", "s3-secret-marker")


class TestLocalStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path):
        return open_store(f"file://{tmp_path}/backups", Credentials())

    @pytest.fixture(params=["not mounted", "no folder", "no right", "no folder any more"])
    def unreachable(self, request, tmp_path, monkeypatch):
        def refuse(*_arguments, **_named):
            raise PermissionError(errno.EACCES, "Permission denied")

        def take_away(store):
            if request.param == "no right":
                monkeypatch.setattr(Path, "open", refuse)
                monkeypatch.setattr(Path, "unlink", refuse)
                return store
            store.root.rename(tmp_path / "elsewhere")
            if request.param == "not mounted":
                store.root.mkdir()
            if request.param == "no folder any more":
                store.root.touch()
            return store

        return take_away

    def test_half_written_file_is_listed_and_deleted(self, store):
        put(store, "app/a.dump", b"1")
        store.path("app/a.dump").rename(store.path("app/a.dump.partial"))
        assert [stored.key for stored in store.list("app")] == ["app/a.dump"]
        store.delete("app/a.dump")
        assert store.list("app") == []

    def test_only_object_of_a_folder_is_deleted(self, store):
        put(store, "a.dump", b"1")
        store.delete("a.dump")
        assert store.list("a") == []

    def test_only_the_owner_may_read(self, store):
        put(store, "app/a.dump", b"1")
        assert store.path("app/a.dump").stat().st_mode & 0o777 == 0o600
        assert store.path("app").stat().st_mode & 0o777 == 0o700

    def test_key_cannot_lead_out_of_the_folder(self, store):
        put(store, "app/a.dump", b"1")
        (store.root / "out").symlink_to("/etc")
        (store.root / "round").symlink_to(store.root / "round")
        with pytest.raises(AdapterError, match="outside"):
            get(store, "out/passwd")
        with pytest.raises(AdapterError, match="leads nowhere"):
            get(store, "round/passwd")

    def test_full_disk_is_named_and_leaves_nothing(self, store, monkeypatch):
        monkeypatch.setattr(LocalStore, "_opened", lambda *_: open("/dev/full", "wb"))
        with pytest.raises(AdapterError, match="No space left on device"):
            put(store, "app/a.dump", b"1")
        assert store.list("app") == []

    def test_folder_that_cannot_be_made_is_named(self, store, tmp_path):
        (tmp_path / "backups").touch()
        with pytest.raises(AdapterError, match="cannot write the archive: "):
            put(store, "app/a.dump", b"1")

    def test_free_space_is_that_of_the_folder_to_come(self, store):
        assert store.free_bytes() > 0


@pytest.fixture
def s3(monkeypatch):
    quick = objects.RETRIES | {
        "retry_timeout": timedelta(seconds=3),
        "backoff": {
            "init_backoff": timedelta(milliseconds=10),
            "max_backoff": timedelta(milliseconds=50),
            "base": 2,
        },
    }
    monkeypatch.setattr(objects, "RETRIES", quick)
    with scripted_s3() as server:
        yield server


class TestS3Store(StoreContract):
    @pytest.fixture
    def store(self, s3):
        return open_store(s3.url, KEY)

    @pytest.fixture(
        params=["refused", "NoSuchBucket", "proxy", "AccessDenied", "SlowDown", "dropped"]
    )
    def unreachable(self, request, s3):
        faults = {"AccessDenied": 403, "SlowDown": 503, "dropped": "drop"}

        def take_away(store):
            if request.param == "refused":
                return open_store(s3.url.replace(str(s3.port), "1"), KEY)
            # A proxy that has lost its server answers 404 too, in words of its own.
            s3.code[404] = "" if request.param == "proxy" else "NoSuchBucket"
            s3.script = lambda *_: faults.get(request.param, 404)
            return store

        return take_away

    def test_failed_write_aborts_its_upload(self, store, s3):
        with pytest.raises(ZeroDivisionError), store.writer("a.dump") as file:
            file.write(BIG)
            raise ZeroDivisionError
        assert (s3.uploads, s3.objects) == ({}, {})

    def test_server_that_fails_for_a_moment_is_asked_again(self, store, s3):
        answers = iter([503, 500, None])
        s3.script = lambda method, _key: next(answers, None) if method == "PUT" else None
        put(store, "a.dump", b"data")
        assert s3.objects["console/a.dump"] == b"data"

    def test_dropped_connection_is_made_again(self, store, s3):
        answers = iter(["drop", None])
        s3.script = lambda method, _key: next(answers, None) if method == "PUT" else None
        put(store, "a.dump", b"data")
        assert s3.objects["console/a.dump"] == b"data"

    def test_slow_server_is_waited_for(self, store, s3):
        s3.script = lambda method, _key: "slow"
        put(store, "a.dump", b"data")
        assert get(store, "a.dump") == b"data"

    def test_archive_that_takes_longer_than_a_request_may_is_read(self, s3, monkeypatch):
        monkeypatch.setattr(objects, "TIMEOUTS", {"timeout": "1s", "connect_timeout": "1s"})
        # As by default: no longer than a request. Until then the library goes on where it was.
        monkeypatch.setitem(objects.RETRIES, "retry_timeout", timedelta(seconds=1))
        monkeypatch.setattr(objects, "PART_BYTES", 4 * 1024 * 1024)
        s3.objects["console/a.dump"] = BIG
        s3.script = lambda *_: "drip"
        assert get(open_store(s3.url, KEY), "a.dump") == BIG

    @pytest.mark.parametrize(
        ("status", "code", "said"),
        [
            (503, "SlowDown", "503 Service Unavailable (SlowDown: scripted SlowDown)"),
            (500, "InternalError", "500 Internal Server Error (InternalError"),
            (403, "ExpiredToken", "403 Forbidden (ExpiredToken"),
            (403, "InvalidAccessKeyId", "403 Forbidden (InvalidAccessKeyId"),
            (404, "NoSuchBucket", "404 Not Found (NoSuchBucket"),
            (400, "BadDigest", "400 Bad Request (BadDigest"),
        ],
    )
    @pytest.mark.parametrize("size", [4, len(BIG)], ids=["small", "multipart"])
    def test_failure_is_named_and_leaves_nothing(self, store, s3, status, code, said, size):
        s3.code[status] = code
        s3.script = lambda method, _key: status if method == "PUT" else None
        with pytest.raises(AdapterError) as error:
            put(store, "a.dump", BIG[:size])
        assert str(error.value).startswith(f"cannot write a.dump: the storage answered {said}")
        assert (s3.uploads, s3.objects) == ({}, {})

    def test_server_that_is_away_is_named(self, s3):
        url = s3.url.replace(str(s3.port), "1")
        with pytest.raises(AdapterError, match="cannot be reached"):
            put(open_store(url, KEY), "a.dump", b"1")
        with pytest.raises(AdapterError, match=r"cannot be reached \(connection refused\)"):
            get(open_store(url, KEY), "a.dump")

    def test_no_error_holds_the_secret_or_the_address(self, store, s3):
        s3.script = lambda *_: 403
        for act in (
            lambda: put(store, "a", b"1"),
            lambda: get(store, "a"),
            lambda: store.list("a"),
            lambda: store.delete("a"),
        ):
            with pytest.raises(AdapterError) as error:
                act()
            assert "s3-secret-marker" not in str(error.value)
            assert "http://" not in str(error.value)


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "[::ffff:169.254.169.254]", "[fe80::1]", "0.0.0.0"]
)
def test_endpoint_that_the_console_does_not_call_is_refused(host):
    with pytest.raises(AdapterError, match="the console does not call"):
        require_callable(f"s3://bucket?endpoint=https://{host}", CallPolicy())
    require_callable("s3://bucket?endpoint=http://127.0.0.1:9", CallPolicy())
    require_callable("s3://bucket", CallPolicy())


@pytest.fixture
def meaning(monkeypatch):
    """`meaning("127.0.0.1", "169.254.169.254")`: what storage.test means, one call after another."""
    real = socket.getaddrinfo

    def make(*addresses: str) -> Iterator[str]:
        left = iter(addresses)
        monkeypatch.setattr(
            socket,
            "getaddrinfo",
            lambda host, *rest, **named: real(
                next(left) if host == "storage.test" else host, *rest, **named
            ),
        )
        return left

    return make


def test_name_of_a_storage_that_means_another_address_by_then_is_not_called(s3, meaning):
    url = s3.url.replace("127.0.0.1", "storage.test")
    meant = meaning("127.0.0.1", "127.0.0.1", "169.254.169.254")
    require_callable(url, CallPolicy())
    store = open_store(url, KEY)
    assert store.list("a") == []
    with pytest.raises(AdapterError, match=r"the console does not call 169\.254\.169\.254"):
        store.list("a")
    assert list(meant) == []


@pytest.mark.parametrize(
    ("scheme", "said"),
    [("http", "it redirects to another http:// address"), ("https", "the console does not call")],
)
def test_storage_that_redirects_to_a_denied_address_is_not_followed(s3, scheme, said):
    s3.script = lambda *_: f"{scheme}://169.254.169.254/latest/meta-data"
    with pytest.raises(AdapterError, match=said):
        open_store(s3.url, KEY).list("a")


def test_way_out_to_storages_is_open_to_nobody_else(s3):
    passage = gateway.Passage(CallPolicy())
    where = f"http://127.0.0.1:{s3.port}/bucket"
    for proxy, status in ((passage.url, 200), (passage.url.replace(passage.key, "guess"), 407)):
        with httpx.Client(proxy=proxy) as client:
            assert client.get(where).status_code == status
    former = passage.url
    del passage
    with httpx.Client(proxy=former) as client:
        assert client.get(where).status_code == 407


def test_storage_behind_tls_is_reached(s3, tmp_path, monkeypatch):
    write_certificate(tmp_path / "pair.pem")
    monkeypatch.setattr(
        objects, "TIMEOUTS", objects.TIMEOUTS | {"allow_invalid_certificates": True}
    )
    with https_in_front_of(f"http://127.0.0.1:{s3.port}", tmp_path / "pair.pem") as url:
        store = open_store(f"s3://bucket?endpoint={url}", KEY)
        assert store.list("a") == []


def test_folder_of_the_consoles_own_data_is_refused_by_what_it_is(tmp_path):
    home, backups = tmp_path / "home", tmp_path / "home/backups"
    for folder in (home / "postgres", backups / "shop", tmp_path / "elsewhere"):
        folder.mkdir(parents=True)
    (tmp_path / "link").symlink_to(home)
    for own in ("home", "home/postgres", "link/postgres/new", "elsewhere/../home"):
        with pytest.raises(AdapterError):
            require_elsewhere(f"file://{tmp_path}/{own}", home, backups)
    for other in ("elsewhere", "home/backups/shop", "link/backups", "homely"):
        require_elsewhere(f"file://{tmp_path}/{other}", home, backups)


# The emulator's well-known account, the same everywhere.
AZURE = Credentials(
    "devstoreaccount1",
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
)


@pytest.fixture(scope="module")
def azurite_url() -> Iterator[str]:
    """Azure's own emulator, in memory; yields the account's address."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/{AZURE.key}"
    server = subprocess.Popen(
        [
            azurite(),
            "--blobPort",
            str(port),
            "--inMemoryPersistence",
            "--skipApiVersionCheck",
            "--disableTelemetry",
            "--silent",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/tmp",
    )
    try:
        for _attempt in range(1200):
            try:
                httpx.get(url)
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield url
    finally:
        server.kill()
        server.wait()


def make_container(account_url: str, name: str) -> None:
    """Create a container, signed as Azure's documentation of the Shared Key scheme says."""
    headers = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    canonical = "".join(f"{key}:{value}\n" for key, value in headers.items())
    path = f"/{AZURE.key}/{AZURE.key}/{name}"
    text = "PUT" + "\n" * 12 + canonical + path + "\nrestype:container"
    digest = hmac.new(base64.b64decode(AZURE.secret), text.encode(), hashlib.sha256).digest()
    signature = base64.b64encode(digest).decode()
    headers |= {"Authorization": f"SharedKey {AZURE.key}:{signature}", "Content-Length": "0"}
    httpx.put(f"{account_url}/{name}?restype=container", headers=headers).raise_for_status()


@pytest.mark.needs_azurite
class TestAzureStore(StoreContract):
    @pytest.fixture
    def store(self, azurite_url):
        name = f"box{uuid.uuid4().hex[:8]}"
        make_container(azurite_url, name)
        return open_store(f"azure://{name}/console?endpoint={azurite_url}", AZURE)

    @pytest.fixture
    def unreachable(self, azurite_url):
        return lambda _store: open_store(f"azure://nobox/console?endpoint={azurite_url}", AZURE)

    def test_container_that_is_not_there_is_named(self, azurite_url):
        store = open_store(f"azure://nobox?endpoint={azurite_url}", AZURE)
        with pytest.raises(AdapterError, match=r"404 .*ContainerNotFound"):
            put(store, "a.dump", b"1")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("/srv/backups", "starts with file://"),
        ("file://srv/backups", "file:///absolute/path"),
        ("file:///srv/../etc", "file:///absolute/path"),
        ("s3://", "give the bucket"),
        ("s3://key:secret@bucket/x", "must not hold a key"),
        ("s3://bucket?endpoint=ftp://x", "the endpoint starts with"),
        ("s3://bucket?color=red", "unknown option 'color'"),
        ("gs://bucket", "starts with file://"),
        ("http://[::1", "this is not an address"),
        ("s3://bucket?endpoint=http://[::1", "this is not an address"),
        ("s3://bucket/../..", "Could not parse path"),
        ("s3://bucket/a//b", "Could not parse path"),
        ("azure://bucket/./a", "Could not parse path"),
    ],
)
def test_bad_url_is_refused_with_what_is_wrong(url, said):
    with pytest.raises(AdapterError) as error:
        open_store(url, Credentials())
    assert said in str(error.value)


def test_url_is_read_in_parts():
    assert Address.parse("s3://b/p/q/?endpoint=https://h:9000&region=eu") == Address(
        "s3", "b", "p/q", "https://h:9000", "eu"
    )
    assert os.fspath(Address.parse("file:///srv/b").path) == "/srv/b"
