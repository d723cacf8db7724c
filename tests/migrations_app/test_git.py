"""Reading migrations from real git repositories, over file, http and ssh."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from migrations_app.sources import git
from migrations_app.sources.git import Repository, check_ref, check_url, read_folder
from opsconsole.exceptions import AdapterError

FOLDER = "prisma/migrations"
TOKEN = "tok-marker-5521"


class Work:
    """A working copy that tests commit to, and the bare repository it pushes to."""

    def __init__(self, folder: Path) -> None:
        self.bare, self.tree = folder / "shop.git", folder / "work"
        self.git("init", "--quiet", "--bare", "--initial-branch=main", self.bare, cwd=folder)
        self.git("config", "uploadpack.allowAnySHA1InWant", "true", cwd=self.bare)
        self.git("clone", "--quiet", self.bare, self.tree, cwd=folder)
        self.git("checkout", "--quiet", "-b", "main")

    @property
    def url(self) -> str:
        return f"file://{self.bare}"

    def git(self, *words, cwd: Path | None = None) -> str:
        names = {
            "GIT_AUTHOR_NAME": "Ann",
            "GIT_COMMITTER_NAME": "Ann",
            "GIT_AUTHOR_EMAIL": "a@b",
            "GIT_COMMITTER_EMAIL": "a@b",
            "GIT_CONFIG_GLOBAL": os.devnull,
        }
        return subprocess.run(
            ["git", *map(str, words)],
            cwd=cwd or self.tree,
            env=os.environ | names,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    def commit(self, files: dict[str, str], subject: str = "Change") -> str:
        for name, text in files.items():
            file = self.tree / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(text.encode())
        return self.commit_tree(subject)

    def commit_tree(self, subject: str = "Change") -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", subject)
        self.git("push", "--quiet", "origin", "HEAD")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def work(tmp_path) -> Work:
    made = Work(tmp_path)
    made.commit(
        {
            f"{FOLDER}/1_init/migration.sql": "CREATE TABLE a (id int);\r\n",
            "package.json": '{"devDependencies": {"prisma": "6.19.3"}}',
            "src/secret.txt": "not wanted",
        },
        "Begin",
    )
    return made


@pytest.fixture
def repository(work, tmp_path) -> Repository:
    return Repository(work.url, tmp_path / "cache")


def test_objects_of_the_largest_folder_are_told_apart_at_once():
    """500 files and 64 MB, the most of one batch: the rest of it is not copied for each file."""
    contents = [bytes([65 + number % 26, 10]) * 65_536 for number in range(500)]
    contents[7] = b""
    answer = b"".join(
        b"%040x blob %d\n%s\n" % (number, len(content), content)
        for number, content in enumerate(contents)
    )
    began = time.process_time()
    assert list(git._objects(answer)) == contents
    assert time.process_time() - began < 2


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_folder_is_read_exactly_with_the_commit_it_is_from(repository, work):
    folder, revision = read_folder(repository, "main", FOLDER)
    assert files(folder) == {"1_init/migration.sql": b"CREATE TABLE a (id int);\r\n"}
    assert (revision.ref, revision.subject, revision.author) == ("main", "Begin", "Ann")
    assert revision.commit == work.git("rev-parse", "HEAD")
    root = folder.parents[1]
    assert sorted(files(root)) == ["package.json", f"{FOLDER}/1_init/migration.sql"]


def test_new_commit_is_seen_and_the_old_one_stays_readable(repository, work):
    before = read_folder(repository, "main", FOLDER)[1].commit
    after = work.commit({f"{FOLDER}/2_more/migration.sql": "SELECT 1;"})
    folder, revision = read_folder(repository, "main", FOLDER)
    assert (revision.commit, len(files(folder))) == (after, 2)
    work.bare.rename(work.bare.with_name("gone.git"))
    folder, revision = read_folder(repository, before, FOLDER)
    assert (revision.commit, len(files(folder))) == (before, 1)


def test_commit_that_no_branch_holds_any_more_is_fetched_by_its_id(repository, work, tmp_path):
    pinned = work.commit({f"{FOLDER}/2_more/migration.sql": "SELECT 1;"})
    work.git("reset", "--quiet", "--hard", "HEAD~1")
    work.git("push", "--quiet", "--force", "origin", "HEAD")
    other = replace(repository, cache=tmp_path / "another-worker")
    assert len(files(read_folder(other, pinned, FOLDER)[0])) == 2


@pytest.mark.parametrize("kind", [[], ["--annotate", "--message", "Release"]])
def test_tag_leads_to_its_commit(repository, work, kind):
    work.git("tag", *kind, "v1.0")
    work.git("push", "--quiet", "origin", "v1.0")
    work.commit({f"{FOLDER}/2_more/migration.sql": "SELECT 1;"})
    assert len(files(read_folder(repository, "v1.0", FOLDER)[0])) == 1


def test_root_of_the_repository_can_be_the_folder(repository):
    folder, _revision = read_folder(repository, "main", "")
    assert "src/secret.txt" in files(folder)


def test_more_files_than_a_batch_are_all_read(repository, work):
    work.commit({f"{FOLDER}/{n:04}_x/migration.sql": f"SELECT {n};\n\n" for n in range(1100)})
    folder, _revision = read_folder(repository, "main", FOLDER)
    read = files(folder)
    assert len(read) == 1101
    assert all(read[f"{n:04}_x/migration.sql"] == f"SELECT {n};\n\n".encode() for n in range(1100))


def test_attributes_of_the_repository_change_nothing(repository, work):
    work.commit(
        {
            ".gitattributes": "*.sql export-ignore export-subst eol=crlf filter=evil\n",
            f"{FOLDER}/2_more/migration.sql": "SELECT '$Format:%H$';\n",
        }
    )
    folder, _revision = read_folder(repository, "main", FOLDER)
    assert files(folder)["2_more/migration.sql"] == b"SELECT '$Format:%H$';\n"


@pytest.mark.parametrize(
    ("ref", "folder", "problem"),
    [
        ("nowhere", FOLDER, "there is no branch, tag or commit nowhere in it"),
        ("0" * 40, FOLDER, "there is no branch, tag or commit 0000"),
        ("main", "db/migrations", "there is no folder db/migrations in main at "),
        ("main", "../up", "is not a folder inside the repository"),
        ("--upload-pack=touch x", FOLDER, "is not the name of a branch or tag"),
        ("a..b", FOLDER, "is not the name of a branch or tag"),
    ],
)
def test_wrong_ref_or_folder_is_named(repository, ref, folder, problem):
    with pytest.raises(AdapterError, match=problem):
        read_folder(repository, ref, folder)


def test_folder_that_is_no_repository_is_named(repository, tmp_path):
    with pytest.raises(AdapterError, match="does not appear to be a git repository"):
        read_folder(replace(repository, url=f"file://{tmp_path}"), "main", FOLDER)


def test_symbolic_link_is_refused_by_name(repository, work):
    link = work.tree / FOLDER / "2_link"
    link.mkdir()
    (link / "migration.sql").symlink_to("/etc/passwd")
    work.commit_tree()
    with pytest.raises(AdapterError, match=r"2_link/migration\.sql is a symbolic link"):
        read_folder(repository, "main", FOLDER)


def test_submodule_is_refused_by_name(repository, work):
    commit = work.git("rev-parse", "HEAD")
    work.git("update-index", "--add", "--cacheinfo", f"160000,{commit},{FOLDER}/sub")
    work.git("commit", "--quiet", "--message", "Sub")
    work.git("push", "--quiet", "origin", "HEAD")
    with pytest.raises(AdapterError, match="sub is a submodule"):
        read_folder(repository, "main", FOLDER)


def test_folder_over_the_limit_is_refused_with_its_size(repository, work):
    work.commit({f"{FOLDER}/2_big/migration.sql": "-" * 3_000_000})
    with pytest.raises(AdapterError, match="holds 3 MB; up to 1 MB are read"):
        read_folder(replace(repository, folder_bytes=1_000_000), "main", FOLDER)


def test_repository_over_the_limit_is_not_fetched_to_its_end(repository, work):
    work.commit({"video.bin": base64.b64encode(os.urandom(30_000_000)).decode()})
    with pytest.raises(AdapterError, match="one commit of it takes over 1 MB"):
        read_folder(replace(repository, cache_bytes=1_000_000), "main", FOLDER)


def test_address_that_never_answers_is_given_up(repository):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/shop.git"
        began = time.monotonic()
        with pytest.raises(AdapterError, match="it was not read within 1 s"):
            read_folder(replace(repository, url=url, seconds=1), "main", FOLDER)
        assert time.monotonic() - began < 10


def test_broken_cache_of_a_killed_fetch_is_no_obstacle(repository):
    read_folder(repository, "main", FOLDER)
    (repository.place / "commits" / "making-killed").mkdir()
    (repository.place / "git" / "objects" / "pack" / "tmp_pack_killed").write_bytes(b"half")
    assert read_folder(repository, "main", FOLDER)[0].exists()


def test_two_workers_at_once_read_the_same(repository):
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(read_folder(repository, "main", FOLDER)[0]))
        for _worker in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("ftp://host/x", "give an https://"),
        ("https://[::1", "this is not an address: Invalid IPv6 URL"),
        ("https://host:99999/x", "this is not an address: Port out of range"),
        ("https://user:word@host/x.git", "leave the password out"),
        ("http://host/x.git", "http:// is not encrypted"),
        ("ext::sh -c touch% /tmp/x", "give an https://"),
        ("/var/lib/x.git", "give an https://"),
        ("https:///x", "names no host"),
        ("-oProxyCommand=x@host:y", "give an https://"),
    ],
)
def test_address_that_git_should_not_open_is_refused(url, problem):
    with pytest.raises(AdapterError, match=problem):
        check_url(url)


@pytest.mark.parametrize(
    "url", ["https://host/x.git", "ssh://git@host:22/x", "git@host:team/x.git"]
)
def test_usual_addresses_are_taken(url):
    check_url(url)


def test_usual_refs_are_taken():
    for ref in ("main", "release/1.2", "v1.0-rc.1", "0" * 40):
        check_ref(ref)


@contextmanager
def http_server(root: Path) -> Iterator[str]:
    """git's own http-backend behind a server that asks for the token; yields the address."""
    expected = "Basic " + base64.b64encode(f"x-access-token:{TOKEN}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            if self.headers.get("Authorization") != expected:
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="git"')
                self.end_headers()
                return
            path, _, query = self.path.partition("?")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            done = subprocess.run(
                ["git", "http-backend"], input=body, capture_output=True, check=True,
                env=os.environ | {
                    "GIT_PROJECT_ROOT": str(root), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path,
                    "QUERY_STRING": query, "REQUEST_METHOD": self.command,
                    "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                    "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                    "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                    "CONTENT_LENGTH": str(len(body)),
                },
            )  # fmt: skip
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            self.send_response(200)
            for line in head.decode().splitlines():
                name, _, value = line.partition(": ")
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = answer

        def log_message(self, *_words) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/shop.git"
    server.shutdown()
    server.server_close()


def test_token_opens_the_repository_and_is_in_no_argument(repository, work):
    seen: set[str] = set()
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.005):
            for process in psutil.process_iter(["cmdline"]):
                seen.update(process.info["cmdline"] or ())

    sampler = threading.Thread(target=sample)
    sampler.start()
    with http_server(work.bare.parent) as url:
        asked = replace(repository, url=url, secret=TOKEN)
        folder, _revision = read_folder(asked, "main", FOLDER)
    done.set()
    sampler.join()
    assert len(files(folder)) == 1
    assert any(url in words for words in seen)
    words = base64.b64encode(f"x-access-token:{TOKEN}".encode()).decode()
    assert not any(TOKEN in each or words in each for each in seen)
    assert not any(TOKEN.encode() in content for content in files(repository.cache).values())


def test_wrong_token_is_a_clear_error_without_it(repository, work):
    with http_server(work.bare.parent) as url:
        asked = replace(repository, url=url, secret="wrong-marker")
        with pytest.raises(AdapterError) as refused:
            read_folder(asked, "main", FOLDER)
    assert "could not read Username" in str(refused.value) or "Authentication" in str(refused.value)
    assert "wrong-marker" not in str(refused.value)


def row_of(address: str) -> list[tuple]:
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))]


@pytest.mark.parametrize(
    "url",
    [
        "https://169.254.169.254/shop.git",
        "https://[::ffff:a9fe:a9fe]/shop.git",
        "ssh://git@169.254.169.254/shop.git",
        "git@169.254.169.254:shop.git",
    ],
)
def test_address_that_the_console_does_not_call_is_refused(repository, url):
    with pytest.raises(AdapterError, match=r"the console does not call 169\.254\.169\.254"):
        read_folder(replace(repository, url=url), "main", FOLDER)


def test_name_that_means_another_address_by_then_leads_to_the_one_judged(
    repository, work, monkeypatch
):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_named: row_of("127.0.0.1"))
    monkeypatch.setattr(git, "LOOPBACK", {"judged.test"})
    with http_server(work.bare.parent) as url:
        asked = replace(repository, url=url.replace("127.0.0.1", "judged.test"), secret=TOKEN)
        folder, _revision = read_folder(asked, "main", FOLDER)
    assert len(files(folder)) == 1


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (
            b"302 Found\r\nLocation: http://169.254.169.254/shop.git/info/refs\r\n",
            r"^it redirects: give the address that it leads to$",
        ),
        (b"403 Forbidden\r\nContent-Type: text/plain; charset=utf-8\r\n", r"^no bad x{400,}…$"),
    ],
    ids=["redirect", "hostile words"],
)
def test_what_a_server_answers_is_not_followed_and_one_line(repository, answer, problem):
    body = b"no \x1b[31m \xe2\x80\xae bad " + b"x" * 100_000
    with socket.create_server(("127.0.0.1", 0)) as server:

        def tell() -> None:
            with server.accept()[0] as line:
                line.recv(4096)
                length = f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                line.sendall(b"HTTP/1.1 " + answer + length + body)

        thread = threading.Thread(target=tell)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/shop.git"
        with pytest.raises(AdapterError, match=problem) as refused:
            read_folder(replace(repository, url=url), "main", FOLDER)
        thread.join()
    assert str(refused.value).isprintable()


def test_subject_and_author_are_one_line_of_text(repository, work):
    author = "Eve \u202e\x1b[31m <e@x>"
    subject = "a\u202eb \x1b]0;t\x07c"
    work.git("commit", "--quiet", "--allow-empty", "--author", author, "--message", subject)
    work.git("push", "--quiet", "origin", "HEAD")
    _folder, revision = read_folder(repository, "main", FOLDER)
    assert (revision.author, revision.subject) == ("Eve", "ab c")


def test_deploy_key_is_given_to_ssh_as_a_private_file(repository, work, tmp_path, monkeypatch):
    """ssh itself is stood in for: what it is asked and the key it can read are what is ours."""
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nmarker\n-----END OPENSSH PRIVATE KEY-----"
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(
        "#!/usr/bin/env bash\n"
        f'printf "%s\\n" "$@" > {tmp_path}/asked\n'
        'while [ "$1" != -i ]; do shift; done\n'
        f'cat "$2" > {tmp_path}/key; stat -L -c %a "$2" > {tmp_path}/mode\n'
        f"exec git-upload-pack {work.bare}\n"
    )
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ssh.parent}:{os.environ['PATH']}")
    meant = iter(["192.0.2.7", "169.254.169.254"])
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_named: row_of(next(meant)))
    asked = replace(repository, url="git@git.example:team/shop.git", secret=key)
    folder, _revision = read_folder(asked, "main", FOLDER)
    assert len(files(folder)) == 1
    assert (tmp_path / "key").read_text() == f"{key}\n"
    assert (tmp_path / "mode").read_text() == "600\n"
    words = (tmp_path / "asked").read_text().splitlines()
    assert {
        "BatchMode=yes",
        "StrictHostKeyChecking=accept-new",
        "HostName=192.0.2.7",
        "HostKeyAlias=git.example",
        "git@git.example",
    } <= set(words)
    assert list(meant) == ["169.254.169.254"]


def test_missing_git_is_named(repository, monkeypatch):
    monkeypatch.setattr(git.shutil, "which", lambda _name: None)
    with pytest.raises(AdapterError, match="git is not installed on this worker"):
        read_folder(repository, "main", FOLDER)
